//! What docs/configuration.md says of the fields of resources, beside what they are, which the proto
//! files say. Ranges and defaults are those that values are checked by: `limits.rs`.

use super::limits::{self, Said};
use super::{Algorithm, DIALOG_LIFETIME, DestinationSet, HASH_SIZE};

/// A field of a resource, or of a message inside one.
#[derive(Clone, Debug)]
pub struct Field {
    /// The message that it is a field of, such as `Cell`.
    pub message: &'static str,
    /// Its name, such as `hash_size`.
    pub name: &'static str,
    /// Which values are good; empty where its type says it.
    pub values: String,
    /// What holds when it is unset.
    pub unset: String,
    /// From when on a change counts.
    pub counts: &'static str,
    /// What comes of a value that is accepted and wrong all the same.
    pub wrong: &'static str,
    is_limited: bool,
    has_default: bool,
}

/// When most changes count: as soon as a node has the generation.
const AT_ONCE: &str = "at once";
/// Of what only the registry says.
const OUTPUT: &str = "set by the registry";

impl Field {
    fn new(message: &'static str, name: &'static str) -> Self {
        Self {
            message,
            name,
            values: String::new(),
            unset: "none".to_owned(),
            counts: AT_ONCE,
            wrong: "",
            is_limited: false,
            has_default: false,
        }
    }

    /// Says in words which values are good.
    fn words(mut self, words: &str) -> Self {
        self.values = words.to_owned();
        self
    }

    /// Says by a limit which values are good.
    fn limit(mut self, said: String) -> Self {
        self.values = said;
        self.is_limited = true;
        self
    }

    fn range(self, range: impl Said) -> Self {
        self.limit(range.said())
    }

    fn at_most(self, max: usize) -> Self {
        self.limit(format!("at most {max}"))
    }

    fn text(self) -> Self {
        self.limit(format!("at most {} bytes", limits::TEXT_BYTES_MAX))
    }

    /// Says in words what holds when it is unset.
    fn unset(mut self, words: &str) -> Self {
        self.unset = words.to_owned();
        self
    }

    /// Says by a default what holds when it is unset.
    fn default(mut self, said: impl Said) -> Self {
        self.unset = said.said();
        self.has_default = true;
        self
    }

    fn required(self) -> Self {
        self.unset("required")
    }

    fn counts(self, counts: &'static str) -> Self {
        Self { counts, ..self }
    }

    fn wrong(self, wrong: &'static str) -> Self {
        Self { wrong, ..self }
    }

    /// Returns the sentence with limit and default in which its comment in the proto file ends; none
    /// when it has neither.
    #[must_use]
    pub fn sentence(&self) -> Option<String> {
        let Self { values, unset, .. } = self;
        let sentence = match (self.is_limited, self.has_default) {
            (true, true) => format!("{values}; {unset} when unset."),
            (true, false) => format!("{values}."),
            (false, true) => format!("{unset} when unset."),
            (false, false) => return None,
        };
        let mut rest = sentence.chars();
        let first = rest.next()?.to_uppercase();
        Some(first.chain(rest).collect())
    }
}

/// Returns every field of every resource but `name` and `etag`, which all of them have.
#[must_use]
pub fn fields() -> Vec<Field> {
    [
        cell(),
        member(),
        set(),
        selector(),
        destination(),
        route(),
        table(),
        trunk(),
        profile(),
    ]
    .concat()
}

fn cell() -> Vec<Field> {
    let field = |name| Field::new("Cell", name);
    vec![
        field("hash_size")
            .limit(format!("a power of two, {}", limits::HASH_SIZE.said()))
            .default(HASH_SIZE)
            .counts("when a router of the cell starts")
            .wrong("Another one than at its stock nodes: they refuse every dialog"),
        field("stock_nodes")
            .at_most(limits::STOCK_NODES_MAX)
            .wrong("A stranger's address: it writes into the cell's dialogs and tables"),
        field("notification_addresses")
            .at_most(limits::NOTIFICATION_ADDRESSES_MAX)
            .wrong("Nobody there: the others of the cell are found through members and stock nodes alone"),
        field("dialog_lifetime")
            .limit(format!("whole seconds, {}", limits::DIALOG_LIFETIME.said()))
            .default(DIALOG_LIFETIME)
            .counts("for dialogs that are answered afterwards")
            .wrong("Too short: calls that go on are recorded as expired and forgotten, though their requests still find their way. Too long: a call of which nobody saw the end takes up room for that long"),
    ]
}

fn member() -> Vec<Field> {
    let field = |name| Field::new("Member", name);
    let endpoint = |name| Field::new("SipEndpoint", name);
    vec![
        field("kind")
            .required()
            .counts("never: it cannot change")
            .wrong("A Kamailio as a router of ours: it is spoken to on the bus in a way it does not know"),
        field("address")
            .words("IP address")
            .required()
            .wrong("KDMQ does not arrive. A node says its own again when it starts"),
        field("sip")
            .range(limits::SIP_ENDPOINTS)
            .required()
            .wrong("Calls do not arrive. A stranger's address: its `X-` headers count"),
        endpoint("side")
            .unset("both sides")
            .wrong("Routers and SBCs reach it at its first address that is not outside"),
        endpoint("address")
            .words("IP address with port")
            .required()
            .wrong("As of `sip`"),
        field("dmq_port")
            .range(limits::DMQ_PORT)
            .unset("0")
            .wrong("It shares no dialogs with its cell"),
        field("cell")
            .words("an id")
            .default(&*format!("\"{}\"", limits::CELL))
            .counts("when the router starts")
            .wrong("It shares its dialogs with others than its heirs"),
        field("zone")
            .text()
            .wrong("Selectors that ask for its zone miss it"),
        field("tags")
            .at_most(limits::TAGS_MAX)
            .wrong("Selectors that ask for its tags miss it"),
        field("desired_state")
            .unset("`MEMBER_STATE_ACTIVE`")
            .wrong("Draining: it gets no new calls. All of a kind draining: nobody does"),
        field("incarnation")
            .words("number")
            .unset("0")
            .counts(OUTPUT)
            .wrong("What a request says is not taken"),
        field("liveness")
            .counts(OUTPUT)
            .wrong("What a request says is not taken"),
    ]
}

fn set() -> Vec<Field> {
    let field = |name| Field::new("DestinationSet", name);
    vec![
        field("algorithm")
            .limit(algorithms())
            .unset("0")
            .wrong("4: a call that is tried again goes elsewhere. 8: the first one gets all calls"),
        field("selector")
            .unset("no members")
            .wrong("What it misses gets no requests"),
        field("first_response")
            .range(limits::FIRST_RESPONSE)
            .default(DestinationSet::FIRST_RESPONSE)
            .wrong("Too short: calls leave destinations that are only slow. Too long: they wait for one that hangs"),
        field("detect_within")
            .range(limits::DETECT_WITHIN)
            .default(limits::DETECT_WITHIN_DEFAULT)
            .wrong("Too short: pauses of a machine are taken for deaths. Too long: calls wait for the dead"),
        field("probe_interval")
            .range(limits::PROBE_INTERVAL)
            .default(limits::PROBE_INTERVAL_DEFAULT)
            .wrong("Too long: who comes back, or dies without having been asked for anything, is noticed late"),
        field("failures_to_inactive")
            .range(limits::IN_A_ROW)
            .default(limits::FAILURES_DEFAULT)
            .counts("not yet: a verdict is by time")
            .wrong("Nothing"),
        field("successes_to_active")
            .range(limits::IN_A_ROW)
            .default(limits::SUCCESSES_DEFAULT)
            .wrong("Too few: one that comes and goes gets calls in between. Too many: it comes back late"),
    ]
}

fn selector() -> Vec<Field> {
    let field = |name| Field::new("MemberSelector", name);
    let rule = |name| Field::new("SelectorRule", name);
    let misses = "Members that it was meant for are not found";
    let otherwise = "Members that it was meant for are as the next rule says";
    vec![
        field("kind").unset("any kind").wrong(misses),
        field("cell").words("an id").unset("any cell").wrong(misses),
        field("tags").at_most(limits::TAGS_MAX).wrong(misses),
        field("zone").text().unset("any zone").wrong(misses),
        field("rules")
            .at_most(limits::RULES_MAX)
            .wrong("In the wrong order: one that holds for more hides the ones behind it"),
        rule("zone").text().unset("any zone").wrong(otherwise),
        rule("cell")
            .words("an id")
            .unset("any cell")
            .wrong(otherwise),
        rule("tags").at_most(limits::TAGS_MAX).wrong(otherwise),
        rule("priority")
            .words("number")
            .unset("0")
            .wrong("As a destination's"),
        rule("weight")
            .range(limits::WEIGHT)
            .default(limits::WEIGHT_DEFAULT)
            .wrong("As a destination's"),
    ]
}

fn destination() -> Vec<Field> {
    let field = |name| Field::new("Destination", name);
    vec![
        field("uri")
            .text()
            .required()
            .wrong("A name instead of an address: the destination is left out, with a line in the log"),
        field("priority")
            .words("number")
            .unset("0")
            .wrong("Under algorithm 8 the wrong one comes first"),
        field("weight")
            .range(limits::WEIGHT)
            .default(limits::WEIGHT_DEFAULT)
            .wrong("Under algorithm 0 it gets more or fewer calls than it can take"),
        field("probing")
            .words("true or false")
            .unset("false")
            .wrong("Not probed: nobody notices its death. Probed, and it answers no OPTIONS: it is held dead"),
        field("desired_state")
            .unset("`DESTINATION_STATE_ACTIVE`")
            .wrong("Draining or disabled: it gets no new calls"),
        field("cell")
            .words("an id")
            .unset("the member's of its id, else the selector's")
            .wrong("A dead router's calls go to one that does not know their dialogs"),
    ]
}

fn route() -> Vec<Field> {
    let field = |name| Field::new("Route", name);
    let matches = |name| Field::new("RouteMatch", name);
    let result = |name| Field::new("RouteResult", name);
    let header = |name| Field::new("HeaderField", name);
    let another = "Another route decides, or none: 404";
    vec![
        field("priority").words("number").unset("0").wrong(another),
        field("match")
            .unset("it applies always")
            .wrong("Unset at a high priority: the routes below it never count"),
        matches("domain").text().unset("any").wrong(another),
        matches("called_prefix").text().unset("any").wrong(another),
        matches("calling_prefix").text().unset("any").wrong(another),
        matches("source")
            .words("address or network")
            .unset("any")
            .wrong(another),
        matches("trunk")
            .words("`trunks/ID`")
            .unset("any")
            .wrong(another),
        field("results")
            .range(limits::ROUTE_RESULTS)
            .required()
            .wrong("The call goes to the wrong place"),
        result("set")
            .words("`sets/ID`")
            .unset("`uri`, or it is refused")
            .wrong("A set that has nobody left: the next result, or 503"),
        result("uri")
            .text()
            .unset("`set`, or it is refused")
            .wrong("Nobody there: the next result after `uri_first_response`, or as soon as the network says so"),
        result("request_uri")
            .text()
            .unset("as it came")
            .wrong("The callee does not know itself by it"),
        result("headers")
            .at_most(limits::ROUTE_HEADERS_MAX)
            .wrong("The callee reads what was not meant for it"),
        header("name")
            .words("a token")
            .required()
            .wrong("As of `headers`"),
        header("value").text().wrong("As of `headers`"),
    ]
}

fn table() -> Vec<Field> {
    let field = |name| Field::new("TableDefinition", name);
    let bytes = limits::TABLE_BYTES.said();
    vec![
        field("table")
            .limit(format!("{bytes} of A-Z, a-z, 0-9, _ and -"))
            .default("the id")
            .wrong("What stock nodes say of the table is not taken"),
        field("autoexpire")
            .limit(format!("whole seconds, {}", limits::AUTOEXPIRE.said()))
            .unset("never")
            .wrong("Another one than at stock nodes, which are not told: keys live longer in one place than in another"),
        field("replicate")
            .words("true or false")
            .default(limits::REPLICATE)
            .wrong("Off: each router of the cell knows what it was told itself"),
        field("update_expire")
            .words("true or false")
            .default(limits::UPDATE_EXPIRE)
            .wrong("Off: a key that is set again and again goes all the same"),
        field("entries_max")
            .range(limits::ENTRIES)
            .default(limits::ENTRIES_DEFAULT)
            .wrong("Too small: new keys are refused. Too large: memory"),
    ]
}

fn trunk() -> Vec<Field> {
    let field = |name| Field::new("Trunk", name);
    vec![
        field("display_name").text().wrong("Nothing but that people read it"),
        field("networks")
            .range(limits::TRUNK_NETWORKS)
            .required()
            .wrong("Too narrow: what the carrier sends is dropped without an answer and counted as `not_allowed`. Too wide: strangers place calls"),
    ]
}

fn profile() -> Vec<Field> {
    let field = |name| Field::new("Profile", name);
    let own = "the node's own";
    vec![
        field("log_filter").text().default(own).wrong(
            "At `debug` every decision about a request is a line with its `call_id`, on every node",
        ),
        field("drain_timeout")
            .range(limits::DRAIN_TIMEOUT)
            .default(own)
            .counts("for a node that is told to end afterwards")
            .wrong("Too short: what is still going on is cut off"),
        field("uri_first_response")
            .range(limits::FIRST_RESPONSE)
            .default(DestinationSet::FIRST_RESPONSE)
            .counts("for new calls")
            .wrong("As a set's `first_response`"),
    ]
}

/// Returns the numbers that name an algorithm of ours, each with what it is.
fn algorithms() -> String {
    let known = (0..=u32::from(u8::MAX)).filter_map(|number| {
        let name = match Algorithm::try_from(number).ok()? {
            Algorithm::CallIdHash => "Call-ID hash",
            Algorithm::RoundRobin => "round robin",
            Algorithm::Priority => "priority",
        };
        Some(format!("{number} ({name})"))
    });
    let known: Vec<_> = known.collect();
    match &known[..] {
        [rest @ .., last] if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        all => all.concat(),
    }
}
