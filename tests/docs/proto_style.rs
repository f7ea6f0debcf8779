//! The proto files keep the rules that `proto/buf.yaml` names, as far as the descriptors show it:
//! buf's STANDARD without RPC_RESPONSE_STANDARD_NAME and RPC_REQUEST_RESPONSE_UNIQUE, and comments
//! on everything that people meet.

use std::collections::BTreeSet;

use prost_reflect::{
    EnumDescriptor, FileDescriptor, MessageDescriptor, OneofDescriptor, ServiceDescriptor,
};

use crate::comments::above;

/// What breaks a rule, one line each.
#[derive(Default)]
struct Offenders(Vec<String>);

impl Offenders {
    fn unless(&mut self, good: bool, who: &str, rule: &str) {
        if !good {
            self.0.push(format!("{who}: {rule}"));
        }
    }
}

#[test]
fn the_proto_files_keep_the_rules_of_their_style() {
    let pool = control::json::pool();
    let ours = |file: &FileDescriptor| file.package_name().starts_with("tandem.");
    let files: Vec<_> = pool.files().filter(ours).collect();
    assert!(!files.is_empty(), "no files of ours");
    let mut offenders = Offenders::default();
    for file in &files {
        check_file(&mut offenders, file);
    }
    // Those are commented by their methods.
    let methods = pool.services().flat_map(|service| {
        let methods: Vec<_> = service.methods().collect();
        methods
    });
    let of_methods: BTreeSet<_> = methods
        .flat_map(|method| [method.input(), method.output()])
        .map(|message| message.full_name().to_owned())
        .collect();
    let is_ours = |file: &FileDescriptor| files.contains(file);
    for message in pool.all_messages().filter(|m| is_ours(&m.parent_file())) {
        check_message(&mut offenders, &message, &of_methods);
    }
    for kind in pool.all_enums().filter(|e| is_ours(&e.parent_file())) {
        check_enum(&mut offenders, &kind);
    }
    for service in pool.services().filter(|s| is_ours(&s.parent_file())) {
        check_service(&mut offenders, &service);
    }
    assert!(offenders.0.is_empty(), "{}", offenders.0.join("\n"));
}

#[test]
fn names_are_told_from_names_of_another_style() {
    for good in ["a", "a_b2", "h_entry"] {
        assert!(is_lower_snake(good), "{good}");
    }
    for bad in ["", "A", "aB", "_a", "a_", "a__b", "a-b", "1a"] {
        assert!(!is_lower_snake(bad), "{bad}");
    }
    assert!(is_upper_camel("GetCell") && is_upper_camel("A"));
    for bad in ["", "getCell", "Get_Cell", "2Cells"] {
        assert!(!is_upper_camel(bad), "{bad}");
    }
    assert_eq!(upper_snake("MemberKind"), "MEMBER_KIND");
    assert!(has_version("tandem.sbc.v1") && has_version("a.v2beta1"));
    for bad in ["tandem.sbc", "tandem.v", "tandem.v0", "tandem.1"] {
        assert!(!has_version(bad), "{bad}");
    }
}

fn check_file(offenders: &mut Offenders, file: &FileDescriptor) {
    let (name, package) = (file.name(), file.package_name());
    let (directory, base) = name.rsplit_once('/').unwrap_or(("", name));
    let said = file.file_descriptor_proto();
    offenders.unless(
        directory == package.replace('.', "/"),
        name,
        "is not where its package says",
    );
    offenders.unless(has_version(package), name, "has a package without version");
    offenders.unless(
        package.split('.').all(is_lower_snake),
        name,
        "has a package in another style than lower_snake",
    );
    let stem = base.strip_suffix(".proto").unwrap_or_default();
    offenders.unless(is_lower_snake(stem), name, "is not lower_snake.proto");
    offenders.unless(said.syntax() == "proto3", name, "is not proto3");
    offenders.unless(
        said.public_dependency.is_empty() && said.weak_dependency.is_empty(),
        name,
        "imports publicly or weakly",
    );
    for unused in unused_imports(file) {
        offenders.unless(false, name, &format!("imports {unused} for nothing"));
    }
}

fn unused_imports(file: &FileDescriptor) -> Vec<String> {
    let mut used = BTreeSet::new();
    let here = |message: &MessageDescriptor| message.parent_file() == *file;
    for message in file.parent_pool().all_messages().filter(here) {
        for field in message.fields() {
            let kind = field.kind();
            used.extend(kind.as_message().map(|m| m.parent_file().name().to_owned()));
            used.extend(kind.as_enum().map(|e| e.parent_file().name().to_owned()));
        }
    }
    for method in file.services().flat_map(|service| {
        let methods: Vec<_> = service.methods().collect();
        methods
    }) {
        let messages = [method.input(), method.output()];
        used.extend(messages.map(|message| message.parent_file().name().to_owned()));
    }
    let imports = file.dependencies().map(|import| import.name().to_owned());
    imports.filter(|import| !used.contains(import)).collect()
}

fn check_message(
    offenders: &mut Offenders,
    message: &MessageDescriptor,
    of_methods: &BTreeSet<String>,
) {
    let name = message.full_name();
    let file = message.parent_file();
    if message.is_map_entry() {
        return;
    }
    offenders.unless(is_upper_camel(message.name()), name, "is not UpperCamel");
    offenders.unless(
        of_methods.contains(name) || !above(&file, message.path()).is_empty(),
        name,
        "has no comment",
    );
    for field in message.fields() {
        let name = field.full_name();
        offenders.unless(is_lower_snake(field.name()), name, "is not lower_snake");
        let comment = above(&file, field.path());
        offenders.unless(!comment.is_empty(), name, "has no comment");
        offenders.unless(!field.is_required(), name, "is required");
    }
    let written = |oneof: &OneofDescriptor| !oneof.is_synthetic();
    for oneof in message.oneofs().filter(written) {
        let good = is_lower_snake(oneof.name());
        offenders.unless(good, oneof.full_name(), "is not lower_snake");
    }
}

fn check_enum(offenders: &mut Offenders, kind: &EnumDescriptor) {
    let name = kind.full_name();
    let file = kind.parent_file();
    let prefix = upper_snake(kind.name()) + "_";
    offenders.unless(is_upper_camel(kind.name()), name, "is not UpperCamel");
    offenders.unless(
        !above(&file, kind.path()).is_empty(),
        name,
        "has no comment",
    );
    let mut numbers = BTreeSet::new();
    for (i, value) in kind.values().enumerate() {
        let said = value.name();
        let name = value.full_name();
        let is_upper = said == said.to_ascii_uppercase() && is_lower_snake(&said.to_lowercase());
        offenders.unless(is_upper, name, "is not UPPER_SNAKE");
        offenders.unless(
            said.starts_with(&prefix),
            name,
            &format!("does not begin with {prefix}"),
        );
        let is_zero = value.number() == 0;
        offenders.unless(numbers.insert(value.number()), name, "is an alias");
        offenders.unless((i == 0) == is_zero, name, "zero is first, and nothing else");
        offenders.unless(
            !is_zero || said == format!("{prefix}UNSPECIFIED"),
            name,
            "zero ends in _UNSPECIFIED",
        );
        offenders.unless(
            is_zero || !above(&file, value.path()).is_empty(),
            name,
            "has no comment",
        );
    }
}

fn check_service(offenders: &mut Offenders, service: &ServiceDescriptor) {
    let name = service.full_name();
    let file = service.parent_file();
    offenders.unless(is_upper_camel(service.name()), name, "is not UpperCamel");
    offenders.unless(
        service.name().ends_with("Service"),
        name,
        "does not end in Service",
    );
    offenders.unless(
        !above(&file, service.path()).is_empty(),
        name,
        "has no comment",
    );
    for method in service.methods() {
        let name = method.full_name();
        let (input, output) = (method.input(), method.output());
        offenders.unless(is_upper_camel(method.name()), name, "is not UpperCamel");
        offenders.unless(
            !above(&file, method.path()).is_empty(),
            name,
            "has no comment",
        );
        offenders.unless(
            [
                format!("{}Request", method.name()),
                format!("{}{}Request", service.name(), method.name()),
            ]
            .contains(&input.name().to_owned()),
            name,
            "has a request of another name",
        );
        // By the rule that is left out, a resource may come back, but no other method's response.
        let is_response = output.name().ends_with("Response");
        offenders.unless(
            !is_response || output.name() == format!("{}Response", method.name()),
            name,
            "has the response of another method",
        );
    }
}

fn is_lower_snake(text: &str) -> bool {
    let is_word = |word: &str| {
        !word.is_empty()
            && word
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    };
    text.starts_with(|c: char| c.is_ascii_lowercase()) && text.split('_').all(is_word)
}

fn is_upper_camel(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_uppercase())
        && text.bytes().all(|b| b.is_ascii_alphanumeric())
}

fn upper_snake(camel: &str) -> String {
    let mut snake = String::new();
    for (i, c) in camel.char_indices() {
        if i > 0 && c.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(c.to_ascii_uppercase());
    }
    snake
}

/// Tells whether a package ends in a version: `v1`, `v1beta1`.
fn has_version(package: &str) -> bool {
    let last = package.rsplit('.').next().unwrap_or_default();
    let Some(version) = last.strip_prefix('v') else {
        return false;
    };
    let digits = version.trim_start_matches(|c: char| c.is_ascii_digit());
    let number = &version[..version.len() - digits.len()];
    let unstable = ["alpha", "beta"].iter().any(|word| {
        digits
            .strip_prefix(word)
            .is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()))
    });
    package.contains('.')
        && number.starts_with(|c: char| c != '0')
        && (digits.is_empty() || unstable)
}
