//! Documents: resources as people write them, in YAML or JSON, one or many in a file.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::{fs, io};

use anyhow::{Context, anyhow};
use control::name::Name;
use serde::Deserialize;
use serde_yaml_ng::{Mapping, Value};

use super::check::{self, Mistake};
use super::{Item, Kind, locate};
use crate::exit::Exit;

/// Most bytes of one file.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// A resource and where it was read.
#[derive(Clone, Debug)]
pub(crate) struct Document {
    pub(crate) item: Item,
    pub(crate) place: Place,
}

/// Where a document stands.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    file: Rc<str>,
    at: At,
}

#[derive(Clone, Debug)]
enum At {
    /// It was made of this line.
    Line(usize),
    /// It is a document of YAML.
    Document {
        /// Its number in the file, from 1.
        number: usize,
        /// What it was read from, and which document of it this is.
        text: Rc<str>,
        index: usize,
        /// Lines of the file before the text.
        lines_before: usize,
    },
}

impl Place {
    /// Returns a line, from 1, of a file that is no YAML.
    pub(crate) fn at_line(file: &str, line: usize) -> Self {
        Self {
            file: file.into(),
            at: At::Line(line),
        }
    }
}

impl Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.at {
            At::Line(line) => write!(f, "line {line} of {}", self.file),
            At::Document { number, .. } => write!(f, "document {number} of {}", self.file),
        }
    }
}

/// Something wrong with a document, and where.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    pub(crate) place: Place,
    /// Name of the resource; may be empty.
    pub(crate) name: String,
    /// Path of the field; may be empty.
    pub(crate) field: String,
    pub(crate) reason: String,
}

impl Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.place.file)?;
        match &self.place.at {
            At::Line(line) => write!(f, "{line}:")?,
            At::Document {
                number,
                text,
                index,
                lines_before,
            } => {
                if let Some(line) = locate::line(text, *index, &self.field) {
                    write!(f, "{}:", lines_before + line)?;
                }
                write!(f, " document {number}")?;
            }
        }
        if !self.name.is_empty() {
            write!(f, " ({})", self.name)?;
        }
        if !self.field.is_empty() {
            write!(f, ": {}", self.field)?;
        }
        write!(f, ": {}", self.reason)
    }
}

/// Puts problems together, one a line.
fn said(problems: &[Problem]) -> anyhow::Error {
    let lines: Vec<_> = problems.iter().map(ToString::to_string).collect();
    anyhow!("{}", lines.join("\n"))
}

/// Reads all documents of files, of directories (`*.yaml`, `*.yml`, `*.json`, in order), and of
/// standard input, `-`.
///
/// # Errors
///
/// Everything that is wrong with any of them; a name that comes twice, too.
pub(crate) fn read_all(paths: &[PathBuf]) -> anyhow::Result<Vec<Document>> {
    let (mut documents, mut problems) = (Vec::new(), Vec::new());
    for (file, text) in texts(paths).map_err(|error| Exit::Usage.because(error))? {
        let (good, bad) = read(&file, &text);
        documents.extend(good);
        problems.extend(bad);
    }
    problems.extend(named_twice(&documents));
    if !problems.is_empty() {
        return Err(Exit::Usage.because(said(&problems)));
    }
    if documents.is_empty() {
        return Err(Exit::Usage.because(anyhow!("there is no document in what -f names")));
    }
    Ok(documents)
}

fn texts(paths: &[PathBuf]) -> anyhow::Result<Vec<(String, String)>> {
    let mut texts = Vec::new();
    for path in paths {
        let shown = path.display().to_string();
        if path.as_os_str() == "-" {
            let mut text = String::new();
            io::stdin()
                .take(FILE_BYTES_MAX)
                .read_to_string(&mut text)
                .context("standard input")?;
            texts.push(("standard input".to_owned(), text));
        } else if path.is_dir() {
            let files = files_of(path).with_context(|| shown.clone())?;
            anyhow::ensure!(
                !files.is_empty(),
                "{shown}: has no .yaml, .yml or .json file"
            );
            for file in files {
                texts.push((file.display().to_string(), text_of(&file)?));
            }
        } else {
            texts.push((shown, text_of(path)?));
        }
    }
    Ok(texts)
}

fn text_of(path: &Path) -> anyhow::Result<String> {
    let shown = path.display();
    let bytes = fs::metadata(path).with_context(|| shown.to_string())?.len();
    anyhow::ensure!(bytes <= FILE_BYTES_MAX, "{shown}: larger than 64 MiB");
    fs::read_to_string(path).with_context(|| shown.to_string())
}

fn files_of(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory)?.map(|entry| entry.map(|entry| entry.path()));
    let mut files = entries.collect::<io::Result<Vec<_>>>()?;
    files.retain(|path| {
        let extension = path.extension().and_then(|extension| extension.to_str());
        path.is_file() && matches!(extension, Some("yaml" | "yml" | "json"))
    });
    files.sort();
    Ok(files)
}

fn named_twice(documents: &[Document]) -> Vec<Problem> {
    let mut first: BTreeMap<&str, &Place> = BTreeMap::new();
    let mut problems = Vec::new();
    for Document { item, place } in documents {
        let before = *first.entry(item.name()).or_insert(place);
        if !std::ptr::eq(before, place) {
            problems.push(Problem {
                place: place.clone(),
                name: item.name().to_owned(),
                field: "name".to_owned(),
                reason: format!("{before} has it, too"),
            });
        }
    }
    problems
}

/// Reads the documents of one text.
fn read(file: &str, text: &str) -> (Vec<Document>, Vec<Problem>) {
    let (mut documents, mut problems) = (Vec::new(), Vec::new());
    let file: Rc<str> = file.into();
    let mut number = 0;
    for (lines_before, part) in parts(text) {
        let part: Rc<str> = part.into();
        for (index, reader) in serde_yaml_ng::Deserializer::from_str(&part).enumerate() {
            number += 1;
            let place = Place {
                file: Rc::clone(&file),
                at: At::Document {
                    number,
                    text: Rc::clone(&part),
                    index,
                    lines_before,
                },
            };
            let value = match Value::deserialize(reader) {
                Ok(Value::Null) => continue,
                Ok(value) => value,
                Err(error) => {
                    problems.push(unreadable(place, &error));
                    // What follows is no YAML any more.
                    break;
                }
            };
            match document(value) {
                Ok(item) => documents.push(Document { item, place }),
                Err((name, mistakes)) => {
                    problems.extend(mistakes.into_iter().map(|mistake| Problem {
                        place: place.clone(),
                        name: name.clone(),
                        field: mistake.path,
                        reason: mistake.reason,
                    }));
                }
            }
        }
    }
    (documents, problems)
}

/// JSON objects one after the other are no YAML together; each of them is.
fn parts(text: &str) -> Vec<(usize, &str)> {
    if !text.trim_start().starts_with('{') {
        return vec![(0, text)];
    }
    let mut parts = Vec::new();
    let mut objects = serde_json::Deserializer::from_str(text).into_iter::<serde_json::Value>();
    let mut begin = 0;
    while let Some(Ok(_)) = objects.next() {
        let end = objects.byte_offset();
        parts.push((text[..begin].matches('\n').count(), &text[begin..end]));
        begin = end;
    }
    // What cannot be read as JSON may be YAML, or says itself what is wrong with it.
    if !text[begin..].trim().is_empty() {
        parts.push((text[..begin].matches('\n').count(), &text[begin..]));
    }
    parts
}

fn unreadable(place: Place, error: &serde_yaml_ng::Error) -> Problem {
    Problem {
        place,
        name: String::new(),
        field: String::new(),
        reason: error.to_string(),
    }
}

fn document(value: Value) -> Result<Item, (String, Vec<Mistake>)> {
    let mistake = |path: &str, reason: String| {
        vec![Mistake {
            path: path.to_owned(),
            reason,
        }]
    };
    let Value::Mapping(mut mapping) = value else {
        let reason = "is no resource: it begins with name:, such as name: routes/x".to_owned();
        return Err((String::new(), mistake("", reason)));
    };
    let name = match mapping.get("name") {
        Some(Value::String(name)) => name.clone(),
        Some(_) | None => {
            let reason = "every resource has one, such as name: routes/x".to_owned();
            return Err((String::new(), mistake("name", reason)));
        }
    };
    let refuse = |path: &str, reason: String| (name.clone(), mistake(path, reason));
    let parsed: Name = name
        .parse()
        .map_err(|error: control::name::NameError| refuse("name", error.to_string()))?;
    let kind = Kind::of(&parsed);
    if let Some(said) = said_kind(&mapping) {
        if said != kind {
            let reason = format!("is {}, but {name} names a {}", said.title(), kind.title());
            return Err(refuse("kind", reason));
        }
        mapping.remove("kind");
    }
    let message = check::read(mapping, &kind.message);
    let message = message.map_err(|mistakes| (name.clone(), mistakes))?;
    Ok(Item { kind, message })
}

/// `kind: Route` says nothing that the name does not; a member has a `kind` of its own.
fn said_kind(mapping: &Mapping) -> Option<&'static Kind> {
    let said = mapping.get("kind")?.as_str()?;
    Kind::all().iter().find(|kind| kind.title() == said)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<String> {
        let (_, problems) = read("f.yaml", text);
        problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn documents_are_read() {
        let text = "---\nkind: Route\nname: routes/a\nresults: [{set: sets/1}]\n---\n# nothing\n\
                    ---\nname: members/a\nkind: MEMBER_KIND_ROUTER\n";
        let (documents, problems) = read("f.yaml", text);
        assert!(problems.is_empty(), "{problems:?}");
        let names: Vec<_> = documents.iter().map(|d| d.item.name()).collect();
        assert_eq!(names, ["routes/a", "members/a"]);
        assert_eq!(documents[1].item.to_resource(), {
            let (again, _) = read("f.yaml", &documents[1].item.to_yaml());
            again[0].item.to_resource()
        });
    }

    #[test]
    fn lines_of_json_are_documents() {
        let text =
            "{\"name\":\"sets/1\"}\n{\"name\":\"sets/2\"}\n{\"name\":\"sets/3\",\n \"x\": 1}";
        let (documents, problems) = read("f.json", text);
        assert_eq!(documents.len(), 2);
        assert_eq!(problems.len(), 1);
        let said = problems[0].to_string();
        assert!(
            said.starts_with("f.json:4: document 3 (sets/3): x: "),
            "{said}"
        );
    }

    #[test]
    fn a_mistake_has_file_line_document_and_field() {
        assert_eq!(
            problems("name: routes/a\n---\nname: routes/b\nmatch:\n  domian: example.com\n"),
            [
                "f.yaml:5: document 2 (routes/b): match.domian: RouteMatch has no such field; did you \
                 mean domain?"
            ]
        );
        assert_eq!(
            problems("kind: Cell\nname: routes/a\n"),
            ["f.yaml:1: document 1 (routes/a): kind: is Cell, but routes/a names a Route"]
        );
        assert_eq!(
            problems("- a\n"),
            ["f.yaml: document 1: is no resource: it begins with name:, such as name: routes/x"]
        );
        assert_eq!(
            problems("name: route/a\n"),
            [
                "f.yaml:1: document 1 (route/a): name: must be cells/ID, members/ID, sets/ID, \
                 sets/SET/destinations/ID, routes/ID, tables/ID, trunks/ID or profiles/KIND"
            ]
        );
        let said = problems("name: routes/a\nx: [1\n---\n");
        assert!(said.len() == 1 && said[0].contains("line 3"), "{said:?}");
    }

    #[test]
    fn a_name_comes_once() {
        let (documents, _) = read("f.yaml", "name: sets/1\n---\nname: sets/1\n");
        let said: Vec<_> = named_twice(&documents)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            said,
            ["f.yaml:3: document 2 (sets/1): name: document 1 of f.yaml has it, too"]
        );
    }
}
