//! Ids of tasks as people paste them: bare, in quotes, in a line of a worker's log, in the key of a result.
//!
//! Celery makes ids with `uuid4()` (kombu/utils/uuid.py), and takes any text that somebody else gives (`task_id=…`). So
//! whatever is pasted may be an id as it stands, and an id is only taken out of it as a second reading.

use std::sync::LazyLock;

use regex::Regex;

#[cfg(test)]
mod tests;

/// What an id looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A UUID as Celery writes it.
    Uuid,
    /// The beginning of one.
    Cut,
    /// Nearly one: a character is wrong, missing or too many.
    Typo,
    /// Anything else, which somebody has chosen.
    Custom,
}

impl Shape {
    /// The word in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Uuid => "uuid",
            Self::Cut => "cut",
            Self::Typo => "typo",
            Self::Custom => "custom",
        }
    }
}

/// The lengths of the groups of a UUID.
const GROUPS: [usize; 5] = [8, 4, 4, 4, 12];
/// Shorter beginnings are words of their own.
const LEAST: usize = 6;

/// What an id looks like.
pub fn shape(id: &str) -> Shape {
    if is_uuid(id) {
        return Shape::Uuid;
    }
    let start = without_ellipsis(id);
    if start.len() >= LEAST && is_start(start) && start.len() < 36 {
        return Shape::Cut;
    }
    let groups: Vec<&str> = id.split('-').collect();
    let lengths = groups.iter().map(|group| group.chars().count());
    let off: usize = lengths
        .zip(GROUPS)
        .map(|(is, should)| is.abs_diff(should))
        .sum();
    let wrong = id.chars().filter(|c| *c != '-' && !c.is_ascii_hexdigit());
    if groups.len() == GROUPS.len() && off + wrong.count() <= 1 {
        return Shape::Typo;
    }
    // A dash is missing, or is another character.
    let hex = |c: &char| c.is_ascii_hexdigit();
    let digits = id.chars().filter(hex).count();
    let others = id.chars().count() - digits;
    if digits == 32 && others == 3 && id.matches('-').count() == 3 {
        return Shape::Typo;
    }
    Shape::Custom
}

fn is_uuid(id: &str) -> bool {
    id.len() == 36 && is_start(id) && !id.bytes().any(|byte| byte.is_ascii_uppercase())
}

/// Whether a UUID can begin so.
fn is_start(text: &str) -> bool {
    let dashes = [8, 13, 18, 23];
    text.len() <= 36
        && text.bytes().enumerate().all(|(at, byte)| {
            if dashes.contains(&at) {
                byte == b'-'
            } else {
                byte.is_ascii_hexdigit()
            }
        })
}

fn without_ellipsis(text: &str) -> &str {
    text.trim_end_matches(['…', '.'])
}

/// Whether this id may be meant by one that is cut short or mistyped: it begins so, or differs in one character, or in
/// case and dashes alone.
pub fn is_meant(by: &str, id: &str) -> bool {
    if by == id || shape(by) == Shape::Custom {
        return false;
    }
    let plain = |text: &str| -> Vec<u8> {
        let kept = text.bytes().filter(|byte| *byte != b'-');
        kept.map(|byte| byte.to_ascii_lowercase()).collect()
    };
    let (wanted, there) = (plain(without_ellipsis(by)), plain(id));
    if shape(by) == Shape::Cut {
        return there.starts_with(&wanted);
    }
    one_apart(&wanted, &there)
}

/// Whether one character was replaced, left out or added, or two neighbours changed places; nothing at all counts too.
fn one_apart(a: &[u8], b: &[u8]) -> bool {
    let (short, long) = if a.len() <= b.len() { (a, b) } else { (b, a) };
    let same = short.iter().zip(long).take_while(|(a, b)| a == b).count();
    let (short, long) = (&short[same..], &long[same..]);
    match long.len() - short.len() {
        0 => match (short, long) {
            ([], _) => true,
            ([_, short @ ..], [_, long @ ..]) if short == long => true,
            ([a, b, short @ ..], [c, d, long @ ..]) => a == d && b == c && short == long,
            _ => false,
        },
        1 => short == &long[1..],
        _ => false,
    }
}

/// Ids taken out of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// The ids, each once.
    pub ids: Vec<String>,
    /// From what, in words.
    pub from: &'static str,
    /// Whether the text can hardly be an id itself.
    pub sure: bool,
}

const UUID: &str = "[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}";

fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).expect("the pattern is tested")
}

/// `Task shop.add[ID] received`: the formats of celery/app/trace.py and celery/worker/request.py.
static OF_CELERYS_LOG: LazyLock<Regex> = LazyLock::new(|| {
    regex(
        r"(?:Task(?: accepted:)?|Discarding revoked task:|exceeded for) [^\s\[\]]+\[(.+?)\](?: (?:received|succeeded|raised|retry:|rejected|ignored|INTERNAL|failed|on_success|after_return|pid:)|\s*$)",
    )
});
/// `shop.add[ID]`, which is also what Celery's own prefix of task logs has.
static IN_BRACKETS: LazyLock<Regex> = LazyLock::new(|| {
    regex(&format!(
        r"[^\W\d][\w.:/<>-]*\[({UUID}|[0-9A-Fa-f]{{32}})\]"
    ))
});
/// The whole of `shop.add[ID]`, where the id is none of Celery's making.
static ALL_IN_BRACKETS: LazyLock<Regex> =
    LazyLock::new(|| regex(r"^[^\W\d][\w-]*(?:\.[^\W\d][\w-]*)+\[([^\[\]]+)\]$"));
/// A key of a result on its own, or in a text.
static RESULT_KEY: LazyLock<Regex> =
    LazyLock::new(|| regex(r#"celery-task-meta-([^\s"'`\[\](){}<>,;]+)"#));
static ALL_RESULT_KEY: LazyLock<Regex> = LazyLock::new(|| regex(r"^\S*celery-task-meta-(.+)$"));
/// `<AsyncResult: ID>` and the like (celery/result.py).
static RESULT_OBJECT: LazyLock<Regex> =
    LazyLock::new(|| regex(r"<(?:Async|Eager)Result: ([^<>]+)>"));
static GROUP_OBJECT: LazyLock<Regex> =
    LazyLock::new(|| regex(r"<(?:Group)?Result(?:Set)?: ([^\s\[\]<>]*) ?\[([^\[\]]*)\]>"));
/// Pages of Flower.
static URL: LazyLock<Regex> = LazyLock::new(|| {
    regex(
        r#"[a-z][a-z0-9+.-]*://[^\s"'<>]*?/task/(?:info/|result/|revoke/|abort/)?([^\s"'<>/?#]+)"#,
    )
});
/// `"task_id": "ID"`, `task_id=ID`.
static TASK_KEY: LazyLock<Regex> = LazyLock::new(|| {
    regex(
        r#"(?i)(?:^|[^\w])(?:celery[._-]?)?task[._-]?(?:id|uuid)["']?\s*[:=]\s*(?:"([^"\\]+)"|'([^'\\]+)'|([^\s"',;{}\[\]()]+))"#,
    )
});
/// `"id": "UUID"`, where no task is named.
static ID_KEY: LazyLock<Regex> = LazyLock::new(|| {
    regex(&format!(
        r#"(?i)["'](?:id|uuid|correlation_id)["']\s*:\s*["']({UUID}|[0-9a-f]{{32}})["']"#
    ))
});
/// A UUID that is no part of a longer word of letters and digits.
static ANY_UUID: LazyLock<Regex> =
    LazyLock::new(|| regex(&format!(r"(?:^|[^0-9A-Za-z])({UUID})(?:$|[^0-9A-Za-z])")));
static ALL_HEX: LazyLock<Regex> = LazyLock::new(|| regex(r"^[0-9A-Fa-f]{32}$"));

/// The ids in one word or argument, as a second reading of it; none where there is no other than the text itself.
pub fn taken_from(text: &str) -> Option<Taken> {
    if is_uuid(text) {
        return None;
    }
    let word = text.trim();
    of_known_form(word)
        .or_else(|| alone(word))
        .or_else(|| uuids(word))
        .or_else(|| unquoted(word))
        .filter(|taken| taken.ids != [text])
}

/// The ids in a line of a log or of another text with several words.
pub fn taken_from_line(line: &str) -> Option<Taken> {
    of_known_form(line).or_else(|| uuids(line))
}

/// Forms of which only one part can be the id.
fn of_known_form(text: &str) -> Option<Taken> {
    let all = |regex: &Regex, from: &'static str| {
        let ids = regex.captures_iter(text);
        let ids = ids.filter_map(|found| found.iter().skip(1).flatten().next());
        taken(ids.map(|id| id.as_str().to_owned()), from)
    };
    let groups = GROUP_OBJECT.captures_iter(text).flat_map(|found| {
        let members = found[2].split(',').map(str::trim).map(str::to_owned);
        std::iter::once(found[1].to_owned())
            .chain(members)
            .collect::<Vec<_>>()
    });
    let urls = URL.captures_iter(text).map(|found| {
        let id = percent_encoding::percent_decode_str(&found[1]);
        id.decode_utf8_lossy().into_owned()
    });
    all(&OF_CELERYS_LOG, "a line of Celery's log")
        .or_else(|| all(&IN_BRACKETS, "name[id]"))
        .or_else(|| all(&ALL_IN_BRACKETS, "name[id]"))
        .or_else(|| all(&TASK_KEY, "a field task_id"))
        .or_else(|| all(&ALL_RESULT_KEY, "the key of a result").filter(|_| !text.contains(' ')))
        .or_else(|| all(&RESULT_KEY, "the key of a result"))
        .or_else(|| all(&RESULT_OBJECT, "a result object"))
        .or_else(|| taken(groups, "a result object"))
        .or_else(|| taken(urls, "a URL"))
        .or_else(|| all(&ID_KEY, "a field id"))
}

/// A UUID in other letters, or without dashes.
fn alone(text: &str) -> Option<Taken> {
    if text.len() == 36 && is_start(text) {
        return taken([text.to_owned()], "capital letters");
    }
    if ALL_HEX.is_match(text) {
        return taken([text.to_owned()], "32 digits without dashes");
    }
    None
}

/// Every UUID in the text. What stands beside them tells whether the text may be an id as a whole.
fn uuids(text: &str) -> Option<Taken> {
    let mut ids = Vec::new();
    let mut beside = String::new();
    let mut at = 0;
    while let Some(found) = ANY_UUID
        .captures_at(text, at)
        .and_then(|found| found.get(1))
    {
        beside.push_str(&text[at..found.start()]);
        ids.push(found.as_str().to_owned());
        at = found.end();
    }
    beside.push_str(&text[at..]);
    let marks = |c: char| c.is_whitespace() || "\"'`[](){}<>,;".contains(c);
    let apart = beside.starts_with("urn:uuid:") || beside.chars().all(marks);
    // In a text of several words, one of which is a UUID, that is the id.
    let word = text.split_whitespace().count() > 1
        && text
            .split_whitespace()
            .map(|word| word.trim_matches(|c| marks(c) || ".:!?".contains(c)))
            .any(|word| ids.iter().any(|id| word == id));
    let from = if apart {
        "quotes or brackets"
    } else {
        "a text"
    };
    let mut taken = taken(ids, from)?;
    taken.sure = apart || word;
    Some(taken)
}

/// A chosen id in quotes, or with the comma of a list behind it.
fn unquoted(text: &str) -> Option<Taken> {
    let bare = text.strip_suffix([',', ';']).unwrap_or(text);
    let inside = ['"', '\'', '`'].into_iter().find_map(|mark| {
        let inside = bare.strip_prefix(mark)?.strip_suffix(mark)?;
        (!inside.contains(mark)).then_some(inside)
    });
    taken([inside.unwrap_or(bare).to_owned()], "quotes or commas")
}

fn taken(ids: impl IntoIterator<Item = String>, from: &'static str) -> Option<Taken> {
    let mut all: Vec<String> = Vec::new();
    for id in ids {
        let id = canonical(id.trim());
        if !id.is_empty() && id != "None" && !all.contains(&id) {
            all.push(id);
        }
    }
    (!all.is_empty()).then_some(Taken {
        ids: all,
        from,
        sure: true,
    })
}

/// A UUID in Celery's writing; anything else as it is.
fn canonical(id: &str) -> String {
    if id.len() == 36 && is_start(id) {
        return id.to_ascii_lowercase();
    }
    if !ALL_HEX.is_match(id) {
        return id.to_owned();
    }
    let id = id.to_ascii_lowercase();
    let mut at = 0;
    let groups = GROUPS.map(|length| {
        at += length;
        &id[at - length..at]
    });
    groups.join("-")
}
