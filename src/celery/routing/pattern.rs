//! The keys of `task_routes`: names, globs and regular expressions.

use regex::Regex;

use super::{Gap, Known};

/// Which names a line of a map of routes takes.
#[derive(Debug, Clone)]
pub enum Pattern {
    /// One name. It wins over all others of its map, wherever it stands.
    Name(String),
    /// A text with a `*` in it.
    Glob(Glob),
    /// A `re.compile(...)`.
    Regex {
        /// As it is written.
        source: String,
        /// What it means here, if that is known.
        regex: Known<Regex>,
    },
}

impl Pattern {
    /// The key as Celery reads a text (`MapRoute.__init__`): only a `*` makes a glob of it.
    pub fn of_text(text: &str) -> Self {
        if text.contains('*') {
            Self::Glob(Glob::new(text))
        } else {
            Self::Name(text.to_owned())
        }
    }

    /// As it is written.
    pub fn text(&self) -> &str {
        match self {
            Self::Name(text) | Self::Regex { source: text, .. } => text,
            Self::Glob(glob) => &glob.text,
        }
    }

    /// Whether it takes this name.
    ///
    /// # Errors
    /// Where it is a regular expression that Python reads and this program does not.
    pub fn takes(&self, name: &str) -> Known<bool> {
        match self {
            Self::Name(text) => Ok(text == name),
            Self::Glob(glob) => Ok(glob.takes(name)),
            Self::Regex { regex, .. } => regex
                .as_ref()
                .map(|regex| regex.is_match(name))
                .map_err(Gap::clone),
        }
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Name(_), Self::Name(_))
            | (Self::Glob(_), Self::Glob(_))
            | (Self::Regex { .. }, Self::Regex { .. }) => self.text() == other.text(),
            _ => false,
        }
    }
}

/// A pattern of Python's fnmatch.
#[derive(Debug, Clone)]
pub struct Glob {
    text: String,
    parts: Vec<Part>,
}

/// One part of a glob.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Star,
    One(Class),
}

/// What one character may be: the ranges, or all but them.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Class {
    but: bool,
    ranges: Vec<(char, char)>,
}

impl Class {
    fn has(&self, character: char) -> bool {
        let within = |(low, high): &(char, char)| *low <= character && character <= *high;
        self.ranges.iter().any(within) != self.but
    }

    /// Whether it has each character that `other` has.
    fn covers(&self, other: &Self) -> bool {
        match (self.but, self.ranges.is_empty(), other.but) {
            (true, true, _) => true,
            _ if self == other => true,
            (_, _, true) => false,
            _ => other
                .ranges
                .iter()
                .all(|(low, high)| low == high && self.has(*low)),
        }
    }
}

impl Glob {
    /// Reads a glob as `fnmatch.translate` of Python 3.11 does.
    pub fn new(text: &str) -> Self {
        let chars: Vec<char> = text.chars().collect();
        let mut parts = Vec::new();
        let mut at = 0;
        while let Some(&character) = chars.get(at) {
            at += 1;
            match character {
                '*' if parts.last() == Some(&Part::Star) => {}
                '*' => parts.push(Part::Star),
                '?' => parts.push(Part::One(any())),
                '[' => match closing(&chars, at) {
                    Some(end) => {
                        parts.push(Part::One(class(&chars[at..end])));
                        at = end + 1;
                    }
                    None => parts.push(Part::One(one('['))),
                },
                plain => parts.push(Part::One(one(plain))),
            }
        }
        Self {
            text: text.to_owned(),
            parts,
        }
    }

    /// Whether it takes this name, in time of the product of their lengths.
    pub fn takes(&self, name: &str) -> bool {
        let mut states = vec![false; self.parts.len() + 1];
        states[0] = true;
        self.skip(&mut states);
        for character in name.chars() {
            let mut next = vec![false; states.len()];
            for (at, part) in self.parts.iter().enumerate() {
                match part {
                    Part::Star if states[at] => next[at] = true,
                    Part::One(class) if states[at] && class.has(character) => next[at + 1] = true,
                    _ => {}
                }
            }
            self.skip(&mut next);
            states = next;
        }
        states[self.parts.len()]
    }

    fn skip(&self, states: &mut [bool]) {
        for (at, part) in self.parts.iter().enumerate() {
            if states[at] && *part == Part::Star {
                states[at + 1] = true;
            }
        }
    }

    /// Whether there is no name that it takes: a range that ends before it begins.
    pub fn takes_nothing(&self) -> bool {
        let empty =
            |part: &Part| matches!(part, Part::One(class) if !class.but && class.ranges.is_empty());
        self.parts.iter().any(empty)
    }

    /// Whether it takes every name that `other` takes. False also where that cannot be told.
    pub fn covers(&self, other: &Self) -> bool {
        if other.takes_nothing() {
            return true;
        }
        // The states of this glob after every text that leads `other` to where the walk stands.
        let mut states = vec![false; self.parts.len() + 1];
        states[0] = true;
        self.skip(&mut states);
        for part in &other.parts {
            let step = |states: &[bool], wanted: &Class| {
                let mut next = vec![false; states.len()];
                for (at, mine) in self.parts.iter().enumerate() {
                    match mine {
                        Part::Star if states[at] => next[at] = true,
                        Part::One(class) if states[at] && class.covers(wanted) => {
                            next[at + 1] = true;
                        }
                        _ => {}
                    }
                }
                self.skip(&mut next);
                next
            };
            states = match part {
                Part::One(class) => step(&states, class),
                // Any text, also an empty one: only what stands in a star, or passes one, holds for them all.
                Part::Star => {
                    let mut all = vec![false; states.len()];
                    for (at, mine) in self.parts.iter().enumerate() {
                        all[at] = states[at] && *mine == Part::Star;
                    }
                    self.skip(&mut all);
                    all
                }
            };
        }
        states[self.parts.len()]
    }

    /// The text before the first character that stands for others.
    pub fn literal_start(&self) -> &str {
        let end = self.text.find(['*', '?', '[']).unwrap_or(self.text.len());
        &self.text[..end]
    }
}

fn any() -> Class {
    Class {
        but: true,
        ranges: Vec::new(),
    }
}

fn one(character: char) -> Class {
    Class {
        but: false,
        ranges: vec![(character, character)],
    }
}

/// Where the `]` of a class stands whose content starts at `start`.
fn closing(chars: &[char], start: usize) -> Option<usize> {
    let mut at = start;
    if chars.get(at) == Some(&'!') {
        at += 1;
    }
    if chars.get(at) == Some(&']') {
        at += 1;
    }
    (at..chars.len()).find(|&at| chars[at] == ']')
}

/// The content of a class. `None` in a token is a hyphen that makes a range.
fn class(content: &[char]) -> Class {
    let start = usize::from(content.first() == Some(&'!'));
    let mut chunks: Vec<Vec<char>> = Vec::new();
    let (mut from, mut look) = (0, start + 1);
    while let Some(hyphen) = (look..content.len()).find(|&at| content[at] == '-') {
        chunks.push(content[from..hyphen].to_vec());
        from = hyphen + 1;
        look = hyphen + 3;
    }
    match (content.get(from..).unwrap_or_default(), chunks.last_mut()) {
        ([], Some(last)) => last.push('-'),
        (rest, _) => chunks.push(rest.to_vec()),
    }
    for at in (1..chunks.len()).rev() {
        let empty = match (chunks[at - 1].last(), chunks[at].first()) {
            (Some(low), Some(high)) => low > high,
            _ => false,
        };
        if empty {
            let rest = chunks.remove(at);
            chunks[at - 1].pop();
            chunks[at - 1].extend(rest.into_iter().skip(1));
        }
    }
    let mut tokens: Vec<Option<char>> = Vec::new();
    for (number, chunk) in chunks.iter().enumerate() {
        if number > 0 {
            tokens.push(None);
        }
        tokens.extend(chunk.iter().copied().map(Some));
    }
    let but = tokens.first() == Some(&Some('!'));
    let tokens = &tokens[usize::from(but)..];
    let mut ranges = Vec::new();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        let low = token.unwrap_or('-');
        if let (Some(None), Some(Some(high))) = (tokens.get(at + 1), tokens.get(at + 2)) {
            ranges.push((low, *high));
            at += 3;
        } else {
            ranges.push((low, low));
            at += 1;
        }
    }
    Class { but, ranges }
}

/// The longest pattern that is read.
const MAX_PATTERN: usize = 4096;

/// What a regular expression of Python means, as `re.match` applies it: at the start of the text. None where Python and
/// Rust read it differently, or might.
pub fn python_regex(source: &str) -> Option<Regex> {
    if source.len() > MAX_PATTERN || !source.is_ascii() {
        return None;
    }
    let mut out = String::from(r"\A(?:");
    let mut chars = source.chars().peekable();
    while let Some(character) = chars.next() {
        match character {
            '\\' => match chars.next()? {
                'Z' => out.push_str(r"\z"),
                letter @ ('d' | 'D' | 's' | 'S' | 'A' | 'n' | 't' | 'w' | 'W' | 'b' | 'B') => {
                    out.push('\\');
                    out.push(letter);
                }
                other if other.is_ascii_punctuation() || other == ' ' => {
                    out.push_str(&regex::escape(&other.to_string()));
                }
                _ => return None,
            },
            // Before a newline at the end, or at the end.
            '$' => out.push_str(r"(?:\n?\z)"),
            '[' => read_class(&mut chars, &mut out)?,
            '(' => {
                out.push('(');
                if chars.peek() == Some(&'?') {
                    chars.next();
                    match chars.next()? {
                        ':' => out.push_str("?:"),
                        'P' if chars.peek() == Some(&'<') => out.push_str("?P"),
                        _ => return None,
                    }
                }
            }
            // A quantifier in Python's own reading: `{,3}` counts from 0, and a brace that is none is a brace.
            '{' => {
                let inside: String = chars.clone().take_while(|c| *c != '}').collect();
                let parts: Vec<&str> = inside.split(',').collect();
                let number =
                    |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_digit());
                match parts.as_slice() {
                    [count] if number(count) => {}
                    [low, high] if number(low) && (high.is_empty() || number(high)) => {}
                    _ => return None,
                }
                out.push('{');
            }
            // Possessive quantifiers are Python's since 3.11, and stacked ones an error there.
            '*' | '+' | '?' => {
                out.push(character);
                if matches!(character, '*' | '+' | '?') && chars.peek() == Some(&'?') {
                    chars.next();
                    out.push('?');
                }
                if matches!(chars.peek(), Some('*' | '+' | '?' | '{')) {
                    return None;
                }
            }
            '}' => {
                out.push('}');
                if matches!(chars.peek(), Some('*' | '+' | '{')) {
                    return None;
                }
            }
            '^' => out.push_str(r"\A"),
            other => out.push(other),
        }
    }
    out.push(')');
    regex::RegexBuilder::new(&out)
        .size_limit(1 << 20)
        .build()
        .ok()
}

/// A class without what the two languages read differently.
fn read_class(
    chars: &mut std::iter::Peekable<std::str::Chars<'_>>,
    out: &mut String,
) -> Option<()> {
    out.push('[');
    if chars.peek() == Some(&'^') {
        chars.next();
        out.push('^');
    }
    if chars.peek() == Some(&']') {
        chars.next();
        out.push_str(r"\]");
    }
    loop {
        match chars.next()? {
            ']' => {
                out.push(']');
                return Some(());
            }
            '\\' => match chars.next()? {
                letter @ ('d' | 'D' | 's' | 'S' | 'w' | 'W' | 'n' | 't') => {
                    out.push('\\');
                    out.push(letter);
                }
                other if other.is_ascii_punctuation() => {
                    out.push('\\');
                    out.push(other);
                }
                _ => return None,
            },
            '-' if chars.peek() == Some(&'-') => return None,
            both @ ('[' | '&' | '~' | '|') => {
                out.push('\\');
                out.push(both);
            }
            other => out.push(other),
        }
    }
}
