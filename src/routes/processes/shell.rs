//! Shell scripts, as far as a command line can be known without running them: words, quotes, variables that are given
//! literally earlier in the file, defaults, and commands within commands. Total: any text is read to its end.

mod expand;
mod words;

use std::collections::{BTreeMap, BTreeSet};

use super::text::Text;
use super::{Found, command};
use expand::{expand, expand_all};
pub(super) use expand::{fields, variable_at};
pub(super) use words::{Dialect, Field};
use words::{Piece, Token, Word, tokens};

/// Deeper shells in shells are not followed.
const DEEPEST: usize = 8;
/// Within more blocks than these variables are not followed.
const MOST_BLOCKS: usize = 100;
/// More variables than these are not followed.
const MOST_VARIABLES: usize = 300;

/// What is known of a variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Known(Text),
    Unknown(String),
}

/// The variables at one point of a file.
#[derive(Clone, Debug, Default)]
pub(super) struct Variables {
    values: BTreeMap<String, Value>,
    /// Those that programs see.
    exported: BTreeSet<String>,
    /// Why a variable that is not here may yet be set.
    more: Option<String>,
}

impl Variables {
    pub(super) fn set(&mut self, name: &str, value: Value) {
        if self.values.len() >= MOST_VARIABLES && !self.values.contains_key(name) {
            self.values.clear();
            self.forget("the file sets too many variables");
        }
        self.values.insert(name.to_owned(), value);
    }

    /// Puts back what was there.
    fn restore(&mut self, name: &str, value: Option<Value>, exported: bool) {
        match value {
            Some(value) => self.set(name, value),
            None => drop(self.values.remove(name)),
        }
        if !exported {
            self.exported.remove(name);
        }
    }

    pub(super) fn export(&mut self, name: &str, value: Value) {
        self.set(name, value);
        self.exported.insert(name.to_owned());
    }

    /// Says that any variable may have another value from here on.
    pub(super) fn forget(&mut self, why: &str) {
        for value in self.values.values_mut() {
            *value = Value::Unknown(why.to_owned());
        }
        self.more = Some(why.to_owned());
    }

    /// Says that variables may be set that are not seen, beneath those that are.
    pub(super) fn and_more(&mut self, why: &str) {
        self.more = Some(why.to_owned());
    }

    pub(super) fn get(&self, name: &str) -> Option<Value> {
        let more = || self.more.clone().map(Value::Unknown);
        self.values.get(name).cloned().or_else(more)
    }

    /// What a program sees. Of variables that may be set where nobody sees it, nothing is said.
    pub(super) fn environment(&self, name: &str) -> Option<&Value> {
        let exported = self.exported.contains(name);
        self.values.get(name).filter(|_| exported)
    }
}

/// A construct that holds commands which may run or not.
struct Block {
    kind: BlockKind,
    before: Variables,
    touched: BTreeSet<String>,
    /// In `case`, whether patterns come next.
    patterns: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum BlockKind {
    If,
    Loop,
    Case,
    Brace,
    Paren,
}

/// Reads the commands of a script and finds the workers among them.
pub(super) fn script(text: &Text, variables: &Variables, found: &mut Found<'_>) {
    if found.depth >= DEEPEST {
        found.unknown(text, "it is a shell in a shell in a shell");
        return;
    }
    found.depth += 1;
    let tokens = tokens(text, Dialect::Shell);
    let mut script = Script::new(&tokens, variables);
    script.run(&tokens, Some(found));
    found.depth -= 1;
}

/// The variables that a file of settings sets.
pub(super) fn assignments(text: &Text, variables: &Variables) -> Variables {
    let tokens = tokens(text, Dialect::Shell);
    let mut script = Script::new(&tokens, variables);
    script.run(&tokens, None);
    script.variables
}

fn changes(name: &str) -> String {
    format!("${name} changes as the script runs")
}

struct Script {
    variables: Variables,
    blocks: Vec<Block>,
    /// Variables that are set in a function or a loop: when, the order of the lines does not tell.
    unsteady: BTreeSet<String>,
    /// `set -a`
    export_all: bool,
}

impl Script {
    fn new(tokens: &[Token], variables: &Variables) -> Self {
        let mut script = Self {
            unsteady: unsteady(tokens),
            variables: variables.clone(),
            blocks: Vec::new(),
            export_all: false,
        };
        for name in script.unsteady.clone() {
            script.assign(&name, Value::Unknown(changes(&name)));
        }
        script
    }

    /// Goes through the commands, and looks for workers where it is told where to put them.
    fn run(&mut self, tokens: &[Token], mut found: Option<&mut Found<'_>>) {
        let mut words: Vec<&Word> = Vec::new();
        for token in tokens {
            match token {
                Token::Word(word) => {
                    if self.in_patterns() {
                        if word.literal() == Some("esac") {
                            self.close(BlockKind::Case);
                        }
                        continue;
                    }
                    if words.is_empty() && self.keyword(word) {
                        continue;
                    }
                    words.push(word);
                    let function = words[0].literal() == Some("function");
                    if function && word.literal() == Some("{") {
                        self.open(BlockKind::Brace, false);
                        words.clear();
                    }
                    if let Some(block) = Self::case_header(&words) {
                        self.open(block, true);
                        words.clear();
                    }
                }
                Token::Operator(operator) => {
                    if self.in_patterns() {
                        if *operator == ")" {
                            self.set_patterns(false);
                        }
                        continue;
                    }
                    let is_function = *operator == "(" && !words.is_empty();
                    self.command(&words, is_function, found.as_deref_mut());
                    words.clear();
                    match *operator {
                        "(" => self.open(BlockKind::Paren, false),
                        ")" => self.close(BlockKind::Paren),
                        ";;" | ";&" | ";;&" => {
                            self.otherwise(BlockKind::Case);
                            self.set_patterns(true);
                        }
                        _ => {}
                    }
                }
            }
        }
        self.command(&words, false, found);
    }

    fn in_patterns(&self) -> bool {
        self.blocks.last().is_some_and(|block| block.patterns)
    }

    fn set_patterns(&mut self, patterns: bool) {
        if let Some(block) = self.blocks.last_mut() {
            block.patterns = patterns && block.kind == BlockKind::Case;
        }
    }

    /// `case WORD in`
    fn case_header(words: &[&Word]) -> Option<BlockKind> {
        let [case, _, word_in] = words else {
            return None;
        };
        let is_case = case.literal() == Some("case") && word_in.literal() == Some("in");
        is_case.then_some(BlockKind::Case)
    }

    /// Whether a word where a command could start is one of the shell's own.
    fn keyword(&mut self, word: &Word) -> bool {
        match word.literal() {
            Some("if") => self.open(BlockKind::If, false),
            Some("while" | "until") => self.open(BlockKind::Loop, false),
            Some("{") => self.open(BlockKind::Brace, false),
            Some("else" | "elif") => self.otherwise(BlockKind::If),
            Some("fi") => self.close(BlockKind::If),
            Some("done") => self.close(BlockKind::Loop),
            Some("esac") => self.close(BlockKind::Case),
            Some("}") => self.close(BlockKind::Brace),
            Some("then" | "do" | "!" | "time") => {}
            _ => return false,
        }
        true
    }

    fn open(&mut self, kind: BlockKind, patterns: bool) {
        if self.blocks.len() >= MOST_BLOCKS {
            self.variables = Variables::default();
            self.variables.and_more("the script is nested too deeply");
        }
        self.blocks.push(Block {
            kind,
            before: self.variables.clone(),
            touched: BTreeSet::new(),
            patterns,
        });
    }

    /// Another branch starts as the first one did.
    fn otherwise(&mut self, kind: BlockKind) {
        if let Some(block) = self.blocks.last().filter(|block| block.kind == kind) {
            self.variables = block.before.clone();
        }
    }

    fn close(&mut self, kind: BlockKind) {
        if self.blocks.last().is_none_or(|block| block.kind != kind) {
            return;
        }
        let Some(block) = self.blocks.pop() else {
            return;
        };
        let more = self.variables.more.take();
        self.variables = block.before;
        self.variables.more = self.variables.more.take().or(more);
        for name in block.touched {
            let why = format!("${name} depends on how the script runs");
            self.assign(&name, Value::Unknown(why));
        }
    }

    fn assign(&mut self, name: &str, value: Value) {
        let value = if self.unsteady.contains(name) {
            Value::Unknown(changes(name))
        } else {
            value
        };
        self.variables.set(name, value);
        if self.export_all {
            self.variables.exported.insert(name.to_owned());
        }
        for block in &mut self.blocks {
            block.touched.insert(name.to_owned());
        }
    }

    fn command(&mut self, words: &[&Word], is_function: bool, mut found: Option<&mut Found<'_>>) {
        if is_function || words.is_empty() {
            return;
        }
        let assignments = words.iter().take_while(|word| word.assigns().is_some());
        let assignments = assignments.count();
        let mut own = Vec::new();
        for word in &words[..assignments] {
            let Some((name, value)) = word.assigns() else {
                continue;
            };
            let value = self.value_of(&value);
            if assignments == words.len() {
                self.assign(&name, value);
            } else {
                own.push((name, value));
            }
        }
        let words = &words[assignments..];
        let Some(program) = words.first() else {
            return;
        };
        // Words that are put aside, to be run later.
        if let (Some("set" | "eval" | "trap"), Some(found)) = (program.literal(), &mut found) {
            let fields = expand_all(words.iter().copied(), &self.variables);
            command::suspect(&fields, found);
        }
        match program.literal() {
            Some("for" | "select") => {
                self.open(BlockKind::Loop, false);
                if let Some(name) = words.get(1).and_then(|word| word.literal()) {
                    self.assign(name, Value::Unknown(changes(name)));
                }
            }
            Some("function") => {}
            Some(builtin @ ("export" | "declare" | "local" | "readonly" | "typeset")) => {
                self.declare(builtin == "export", &words[1..]);
            }
            Some("unset" | "read" | "getopts" | "mapfile" | "printf") => {
                for word in &words[1..] {
                    let name = word.literal().filter(|name| is_name(name));
                    if let Some(name) = name {
                        let why = format!("${name} is set as the script runs");
                        self.assign(name, Value::Unknown(why));
                    }
                }
            }
            Some("set") => {
                let options = words[1..].iter().filter_map(|word| word.literal());
                for option in options.take_while(|option| option.starts_with(['-', '+'])) {
                    if option.contains('a') && !option.starts_with("--") {
                        self.export_all = option.starts_with('-');
                    }
                }
            }
            Some("." | "source" | "eval") => {
                // A virtual environment sets PATH, and nothing that counts here.
                let sourced = words.get(1).and_then(|word| word.literal());
                if !sourced.is_some_and(|path| path.ends_with("/activate")) {
                    let what = sourced.unwrap_or("a file");
                    self.forget(&format!("{what} may set it"));
                }
            }
            _ => {
                // Words are expanded before the command gets variables of its own.
                let fields = expand_all(words.iter().copied(), &self.variables);
                let mut before = Vec::new();
                for (name, value) in own {
                    let exported = self.variables.exported.contains(&name);
                    before.push((
                        name.clone(),
                        self.variables.values.get(&name).cloned(),
                        exported,
                    ));
                    self.variables.export(&name, value);
                }
                if let Some(found) = found {
                    command::run(&fields, &self.variables, found);
                }
                for (name, value, exported) in before.into_iter().rev() {
                    self.variables.restore(&name, value, exported);
                }
            }
        }
    }

    fn forget(&mut self, why: &str) {
        self.variables.forget(why);
        for block in &mut self.blocks {
            block.before.forget(why);
        }
    }

    fn declare(&mut self, export: bool, words: &[&Word]) {
        let mut export = export;
        for word in words {
            let assigned = word.assigns();
            let name = match (&assigned, word.literal()) {
                (Some((name, _)), _) => name.clone(),
                (None, Some(option)) if option.starts_with('-') => {
                    export |= option.contains('x');
                    continue;
                }
                (None, Some(name)) if is_name(name) => name.to_owned(),
                _ => continue,
            };
            if let Some((_, value)) = assigned {
                let value = self.value_of(&value);
                self.assign(&name, value);
            }
            if export {
                self.variables.exported.insert(name);
            }
        }
    }

    /// The value that an assignment gives: one text, whatever blanks it has.
    fn value_of(&self, word: &Word) -> Value {
        let quoted = Word {
            pieces: word.pieces.iter().map(Piece::quoted).collect(),
        };
        let mut fields = expand(&quoted, &self.variables, Dialect::Shell);
        match fields.pop() {
            None => Value::Known(Text::default()),
            Some(Field {
                unknown: Some(why), ..
            }) => Value::Unknown(why),
            Some(field) => Value::Known(field.text),
        }
    }
}

/// Variables that are set within a loop or a function.
fn unsteady(tokens: &[Token]) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let (mut loops, mut braces, mut first) = (0_usize, 0_usize, true);
    for token in tokens {
        let Token::Word(word) = token else {
            first = true;
            continue;
        };
        match word.literal() {
            Some("while" | "until" | "for" | "select") if first => loops += 1,
            Some("done") if first => loops = loops.saturating_sub(1),
            Some("{") => braces += 1,
            Some("}") => braces = braces.saturating_sub(1),
            _ => {
                if let Some((name, _)) = word.assigns().filter(|_| loops > 0 || braces > 0) {
                    names.insert(name);
                }
            }
        }
        // What follows a keyword or an assignment can be a command too.
        let opens = ["do", "then", "else", "{", "}", "if", "while", "until", "!"];
        let keyword = word.literal().is_some_and(|word| opens.contains(&word));
        first = first && (keyword || word.assigns().is_some());
    }
    names
}

/// Whether a variable could be called this.
pub(super) fn is_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes
        .next()
        .is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}
