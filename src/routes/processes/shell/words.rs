//! Words: quotes, escapes, and where expansions stand in them.

use super::{Text, is_name};

/// Whose quotes and variables are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::routes::processes) enum Dialect {
    /// A POSIX shell.
    Shell,
    /// systemd's command lines: words, quotes and variables, and no operators.
    Systemd,
    /// Words and quotes alone, as Python's `shlex.split` takes them.
    Words,
}

/// A part of a word before expansion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::routes::processes) enum Piece {
    Literal {
        text: Text,
        quoted: bool,
    },
    Variable {
        name: String,
        /// What stands behind the name: `:-`, `-`, `:=`, `=` with the default. Others are not followed.
        default: Option<(bool, Text)>,
        /// An operation that is not followed.
        odd: bool,
        raw: Text,
        quoted: bool,
    },
    /// What only a running shell can tell.
    Command {
        raw: Text,
        quoted: bool,
    },
}

impl Piece {
    /// The variable whose dollar stands at a place of a text, and where its name ends.
    pub(super) fn read(text: &Text, at: usize) -> Option<(Self, usize)> {
        let mut lexer = Lexer::new(text, Dialect::Systemd);
        lexer.at = at;
        let piece = lexer.expansion(true)?;
        Some((piece, lexer.at))
    }

    /// The same between double quotes.
    pub(super) fn quoted(&self) -> Self {
        let mut piece = self.clone();
        match &mut piece {
            Self::Literal { quoted, .. }
            | Self::Variable { quoted, .. }
            | Self::Command { quoted, .. } => *quoted = true,
        }
        piece
    }
}

/// A word before expansion.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::routes::processes) struct Word {
    pub(super) pieces: Vec<Piece>,
}

impl Word {
    /// All of a text as one word: blanks and operators have no meaning in it.
    pub(super) fn whole(text: &Text, dialect: Dialect) -> Self {
        let mut lexer = Lexer::new(text, dialect);
        let mut word = Self::default();
        while !lexer.rest().is_empty() {
            let before = lexer.at;
            word.pieces.extend(lexer.word().pieces);
            if lexer.at == before {
                let next = before + lexer.peek().map_or(1, char::len_utf8);
                let text = lexer.text.slice(before, next);
                word.pieces.push(Piece::Literal { text, quoted: true });
                lexer.at = next;
            }
        }
        word
    }

    /// The text of a word without quotes and variables.
    pub(super) fn literal(&self) -> Option<&str> {
        match self.pieces.as_slice() {
            [
                Piece::Literal {
                    text,
                    quoted: false,
                },
            ] => Some(text.as_str()),
            _ => None,
        }
    }

    /// The name and the value, where the word is an assignment.
    pub(super) fn assigns(&self) -> Option<(String, Word)> {
        let Some(Piece::Literal {
            text,
            quoted: false,
        }) = self.pieces.first()
        else {
            return None;
        };
        let (name, value) = text.split_once('=')?;
        if !is_name(name.as_str()) {
            return None;
        }
        let mut pieces = self.pieces.clone();
        pieces[0] = Piece::Literal {
            text: value,
            quoted: false,
        };
        Some((name.as_str().to_owned(), Word { pieces }))
    }
}

/// A word, or what stands between commands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::routes::processes) enum Token {
    Word(Word),
    Operator(&'static str),
}

/// A word after expansion.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::routes::processes) struct Field {
    /// With what is unknown as it stands in the file.
    pub(in crate::routes::processes) text: Text,
    /// Why it is not known.
    pub(in crate::routes::processes) unknown: Option<String>,
    /// Whether it may be no word at all, or several.
    pub(in crate::routes::processes) loose: bool,
}

impl Field {
    pub(in crate::routes::processes) fn known(text: Text) -> Self {
        Self {
            text,
            unknown: None,
            loose: false,
        }
    }

    pub(in crate::routes::processes) fn as_str(&self) -> &str {
        self.text.as_str()
    }
}

/// Takes a text apart.
pub(in crate::routes::processes) fn tokens(text: &Text, dialect: Dialect) -> Vec<Token> {
    let mut lexer = Lexer::new(text, dialect);
    lexer.run();
    lexer.tokens
}

struct Lexer<'t> {
    text: &'t Text,
    at: usize,
    dialect: Dialect,
    tokens: Vec<Token>,
    /// Ends of the documents that follow the line, and whether their tabs are stripped.
    heredocs: Vec<(String, bool)>,
}

const OPERATORS: [&str; 15] = [
    ";;&", ";;", ";&", "&&", "||", "|&", "&>>", "&>", ";", "&", "|", "(", ")", "<(", ">(",
];

impl<'t> Lexer<'t> {
    fn new(text: &'t Text, dialect: Dialect) -> Self {
        Self {
            text,
            at: 0,
            dialect,
            tokens: Vec::new(),
            heredocs: Vec::new(),
        }
    }

    fn rest(&self) -> &str {
        self.text.as_str().get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn run(&mut self) {
        while let Some(character) = self.peek() {
            let shell = self.dialect == Dialect::Shell;
            match character {
                '\\' if self.continues() > 0 => self.at += self.continues(),
                '\n' => {
                    self.at += 1;
                    if shell {
                        self.tokens.push(Token::Operator("\n"));
                        self.skip_heredocs();
                    }
                }
                blank if blank.is_whitespace() => self.at += blank.len_utf8(),
                '#' if shell => self.at += self.rest().find('\n').unwrap_or(self.rest().len()),
                _ if shell && self.redirection() => {}
                _ if shell && self.operator() => {}
                _ => {
                    let word = self.word();
                    self.tokens.push(Token::Word(word));
                }
            }
        }
    }

    /// How many bytes a backslash at the end of a line takes.
    fn continues(&self) -> usize {
        let rest = self.rest();
        match rest {
            _ if rest.starts_with("\\\n") => 2,
            _ if rest.starts_with("\\\r\n") => 3,
            _ => 0,
        }
    }

    fn operator(&mut self) -> bool {
        let found = OPERATORS.into_iter().find(|op| self.rest().starts_with(op));
        if let Some(operator) = found {
            self.at += operator.len();
            self.tokens.push(Token::Operator(operator));
        }
        found.is_some()
    }

    /// Skips `2>&1`, `>> file`, `<<EOF` and their like, with the file.
    fn redirection(&mut self) -> bool {
        let rest = self.rest();
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let after = &rest[digits..];
        let all = [
            "<<<", "<<-", "<<", ">>", ">|", "<&", ">&", "<>", "&>>", "&>", "<", ">",
        ];
        let Some(operator) = all.into_iter().find(|op| after.starts_with(op)) else {
            return false;
        };
        if matches!(&after.get(..2), Some("<(" | ">(")) || (digits > 0 && operator.starts_with('&'))
        {
            return false;
        }
        self.at += digits + operator.len();
        while self.peek().is_some_and(|c| c == ' ' || c == '\t') {
            self.at += 1;
        }
        let stops = |c: char| c.is_whitespace() || "|&;()<>".contains(c);
        if self.peek().is_some_and(|c| !stops(c)) {
            let target = self.word();
            if matches!(operator, "<<" | "<<-") {
                let end: String = target.pieces.iter().map(raw_text).collect();
                self.heredocs.push((end, operator == "<<-"));
            }
        }
        true
    }

    fn skip_heredocs(&mut self) {
        for (end, tabs) in std::mem::take(&mut self.heredocs) {
            while !self.rest().is_empty() {
                let rest = self.rest();
                let length = rest.find('\n').map_or(rest.len(), |at| at + 1);
                let line = rest[..length].trim_end_matches(['\n', '\r']);
                let line = if tabs {
                    line.trim_start_matches('\t')
                } else {
                    line
                };
                let ends = line == end;
                self.at += length;
                if ends {
                    break;
                }
            }
        }
    }

    fn word(&mut self) -> Word {
        let mut word = Word::default();
        let mut plain = Text::default();
        let variables = self.dialect != Dialect::Words;
        while let Some(character) = self.peek() {
            let shell = self.dialect == Dialect::Shell;
            let here = self.text.offset(self.at);
            if character.is_whitespace() || (shell && "|&;()<>".contains(character)) {
                break;
            }
            match character {
                '\\' if self.continues() > 0 => self.at += self.continues(),
                '\\' => {
                    self.at += 1;
                    if let Some(escaped) = self.peek() {
                        flush(&mut word, &mut plain, false);
                        plain.push(escaped, self.text.offset(self.at));
                        self.at += escaped.len_utf8();
                        // An escaped character is as good as quoted.
                        flush(&mut word, &mut plain, true);
                    }
                }
                '\'' => {
                    flush(&mut word, &mut plain, false);
                    self.at += 1;
                    let length = self.rest().find('\'').unwrap_or(self.rest().len());
                    let text = self.text.slice(self.at, self.at + length);
                    word.pieces.push(Piece::Literal { text, quoted: true });
                    self.at = (self.at + length + 1).min(self.text.len());
                }
                '"' => {
                    flush(&mut word, &mut plain, false);
                    self.at += 1;
                    self.double_quoted(&mut word);
                }
                '$' | '`' if variables => {
                    let Some(piece) = self.expansion(false) else {
                        plain.push(character, here);
                        self.at += 1;
                        continue;
                    };
                    flush(&mut word, &mut plain, false);
                    word.pieces.push(piece);
                }
                _ => {
                    plain.push(character, here);
                    self.at += character.len_utf8();
                }
            }
        }
        flush(&mut word, &mut plain, false);
        word
    }

    fn double_quoted(&mut self, word: &mut Word) {
        let mut plain = Text::default();
        let before = word.pieces.len();
        let escapable = if self.dialect == Dialect::Words {
            "\"\\"
        } else {
            "$`\"\\"
        };
        while let Some(character) = self.peek() {
            let here = self.text.offset(self.at);
            match character {
                '"' => {
                    self.at += 1;
                    break;
                }
                '\\' => {
                    let continues = self.continues();
                    if continues > 0 {
                        self.at += continues;
                        continue;
                    }
                    self.at += 1;
                    let escaped = self.peek().filter(|c| escapable.contains(*c));
                    plain.push(escaped.unwrap_or('\\'), here);
                    self.at += escaped.map_or(0, char::len_utf8);
                }
                '$' | '`' if self.dialect != Dialect::Words => {
                    let Some(piece) = self.expansion(true) else {
                        plain.push(character, here);
                        self.at += 1;
                        continue;
                    };
                    flush(word, &mut plain, true);
                    word.pieces.push(piece);
                }
                _ => {
                    plain.push(character, here);
                    self.at += character.len_utf8();
                }
            }
        }
        if !plain.is_empty() || word.pieces.len() == before {
            let text = plain;
            word.pieces.push(Piece::Literal { text, quoted: true });
        }
    }

    /// What a `$` or a backtick starts; `None` where it is just that character.
    fn expansion(&mut self, quoted: bool) -> Option<Piece> {
        let rest = self.rest();
        let mut odd = false;
        let (name, default, length) = if rest.starts_with('`') || rest.starts_with("$(") {
            if self.dialect == Dialect::Systemd {
                return None;
            }
            let length = enclosed(rest);
            let raw = self.text.slice(self.at, self.at + length);
            self.at += length;
            return Some(Piece::Command { raw, quoted });
        } else if rest.starts_with("${") {
            let length = enclosed(rest);
            let end = if rest[..length].ends_with('}') {
                length - 1
            } else {
                length
            };
            let inner = self.text.slice(self.at + 2, self.at + end);
            let name_length = name_length(inner.as_str());
            let name = inner.as_str()[..name_length].to_owned();
            let after = inner.from(name_length);
            let default = match after.as_str() {
                "" => None,
                text if text.starts_with(":-") || text.starts_with(":=") => {
                    Some((true, after.from(2)))
                }
                text if text.starts_with(['-', '=']) => Some((false, after.from(1))),
                text if text.starts_with(":?") || text.starts_with('?') => None,
                _ => {
                    odd = true;
                    None
                }
            };
            odd |= name.is_empty();
            (name, default, length)
        } else {
            let after = &rest[1..];
            let length = match after.chars().next() {
                Some('@' | '*' | '#' | '?' | '!' | '$' | '-' | '0'..='9') => 1,
                _ => name_length(after),
            };
            if length == 0 {
                return None;
            }
            (after[..length].to_owned(), None, length + 1)
        };
        let raw = self.text.slice(self.at, self.at + length);
        self.at += length;
        if self.dialect == Dialect::Systemd && name == "$" {
            let text = raw.slice(0, 1);
            return Some(Piece::Literal { text, quoted: true });
        }
        Some(Piece::Variable {
            name,
            default,
            odd,
            raw,
            quoted,
        })
    }
}

fn flush(word: &mut Word, plain: &mut Text, quoted: bool) {
    if !plain.is_empty() {
        let text = std::mem::take(plain);
        word.pieces.push(Piece::Literal { text, quoted });
    }
}

fn raw_text(piece: &Piece) -> &str {
    match piece {
        Piece::Literal { text, .. } => text.as_str(),
        Piece::Variable { raw, .. } | Piece::Command { raw, .. } => raw.as_str(),
    }
}

fn name_length(text: &str) -> usize {
    let length = text
        .bytes()
        .take_while(|b| b.is_ascii_alphanumeric() || *b == b'_')
        .count();
    if text.starts_with(|c: char| c.is_ascii_digit()) {
        0
    } else {
        length
    }
}

/// How long a `$(…)`, `${…}` or backtick is, quotes and nesting minded; all the rest where it does not end.
fn enclosed(text: &str) -> usize {
    let bytes = text.as_bytes();
    if bytes[0] == b'`' {
        return bytes[1..]
            .iter()
            .position(|b| *b == b'`')
            .map_or(bytes.len(), |at| at + 2);
    }
    let mut open = Vec::new();
    let mut at = 1;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'\\' => at += 1,
            b'\'' => {
                let end = bytes[at + 1..].iter().position(|b| *b == b'\'');
                at += end.map_or(bytes.len(), |end| end + 1);
            }
            b'(' => open.push(b')'),
            b'{' => open.push(b'}'),
            b')' | b'}' if open.last() == Some(byte) => {
                open.pop();
                if open.is_empty() {
                    return at + 1;
                }
            }
            _ => {}
        }
        at += 1;
    }
    bytes.len()
}
