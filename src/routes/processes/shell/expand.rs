//! What becomes of words: variables take their values, and unquoted ones fall apart.

use super::words::{Dialect, Field, Piece, Token, Word, tokens};
use super::{Text, Value, Variables};

/// Deeper defaults in defaults are not followed.
const DEEPEST: usize = 8;
/// Longer values of variables are not followed, in bytes.
const LONGEST_VALUE: usize = 2048;
/// Longer commands are not followed, in bytes.
const LONGEST_COMMAND: usize = 1 << 16;

/// Splits a text into words and expands these.
pub(in crate::routes::processes) fn fields(
    text: &Text,
    variables: &Variables,
    dialect: Dialect,
) -> Vec<Field> {
    let mut fields = Vec::new();
    for token in tokens(text, dialect) {
        if let Token::Word(word) = token {
            fields.extend(expand(&word, variables, dialect));
        }
    }
    fields
}

/// The fields of a shell's command.
pub(super) fn expand_all<'w>(
    words: impl Iterator<Item = &'w Word>,
    variables: &Variables,
) -> Vec<Field> {
    let mut fields = Vec::new();
    let mut length = 0;
    for word in words {
        let expanded = expand(word, variables, Dialect::Shell);
        length += expanded.iter().map(|field| field.text.len()).sum::<usize>();
        fields.extend(expanded);
        if length > LONGEST_COMMAND {
            fields.push(Field {
                unknown: Some("the command is too long".to_owned()),
                loose: true,
                ..Field::default()
            });
            break;
        }
    }
    fields
}

/// The value of the variable whose dollar stands at a place of a text, and where its name ends; a lone dollar is one.
pub(in crate::routes::processes) fn variable_at(
    text: &Text,
    at: usize,
    variables: &Variables,
) -> (Result<Text, String>, usize) {
    match Piece::read(text, at) {
        Some((piece, end)) => (resolve(&piece, variables, Dialect::Systemd, 0), end),
        None => (Ok(text.slice(at, at + 1)), at + 1),
    }
}

/// Expands a word into fields: several, where an unquoted variable holds blanks; none, where it is empty.
pub(in crate::routes::processes) fn expand(
    word: &Word,
    variables: &Variables,
    dialect: Dialect,
) -> Vec<Field> {
    expand_at(word, variables, dialect, 0)
}

fn expand_at(word: &Word, variables: &Variables, dialect: Dialect, depth: usize) -> Vec<Field> {
    let mut fields = Vec::new();
    let mut current: Option<Field> = None;
    for piece in &word.pieces {
        if let Some(field) = current.as_mut().filter(|f| f.text.len() > LONGEST_COMMAND) {
            field.unknown.get_or_insert("it is too long".to_owned());
            break;
        }
        match piece {
            Piece::Literal { text, .. } => {
                let field = current.get_or_insert_default();
                field.text.append(text);
            }
            Piece::Command { raw, quoted } => {
                let why = format!("{} is known only when it runs", shown(raw));
                let field = current.get_or_insert_default();
                field.loose |= !quoted && word.pieces.len() == 1;
                field.text.append(raw);
                field.unknown.get_or_insert(why);
            }
            Piece::Variable {
                name, raw, quoted, ..
            } => match resolve(piece, variables, dialect, depth) {
                Ok(value) if *quoted => current.get_or_insert_default().text.append(&value),
                Ok(value) => split_into(&value, &mut current, &mut fields),
                Err(why) => {
                    let many = name == "@" || name == "*" || raw.as_str().contains("[@]");
                    let field = current.get_or_insert_default();
                    field.loose |= many || (!quoted && word.pieces.len() == 1);
                    field.text.append(raw);
                    field.unknown.get_or_insert(why);
                }
            },
        }
    }
    fields.extend(current);
    fields
}

/// Appends the words of a value, the first to what stands before it.
fn split_into(value: &Text, current: &mut Option<Field>, fields: &mut Vec<Field>) {
    let text = value.as_str();
    let mut start = None;
    for (at, character) in text.char_indices() {
        if !character.is_whitespace() {
            start.get_or_insert(at);
            continue;
        }
        if let Some(start) = start.take() {
            let field = current.get_or_insert_default();
            field.text.append(&value.slice(start, at));
        }
        fields.extend(current.take());
    }
    if let Some(start) = start {
        let field = current.get_or_insert_default();
        field.text.append(&value.from(start));
    }
}

/// The value of a variable, or why it is not known.
fn resolve(
    piece: &Piece,
    variables: &Variables,
    dialect: Dialect,
    depth: usize,
) -> Result<Text, String> {
    let Piece::Variable {
        name,
        default,
        odd,
        raw,
        ..
    } = piece
    else {
        return Ok(Text::default());
    };
    if *odd {
        return Err(format!("{} is known only when it runs", shown(raw)));
    }
    match (variables.get(name), default) {
        (Some(Value::Unknown(why)), _) => Err(why),
        (Some(Value::Known(value)), Some((true, _))) if value.is_empty() => {
            default_of(default.as_ref(), variables, dialect, depth)
        }
        (Some(Value::Known(value)), _) if value.len() > LONGEST_VALUE => {
            Err(format!("${name} is too long"))
        }
        (Some(Value::Known(value)), _) => Ok(value),
        (None, Some(_)) => default_of(default.as_ref(), variables, dialect, depth),
        (None, None) => Err(format!("${name} is not set in this file")),
    }
}

fn default_of(
    default: Option<&(bool, Text)>,
    variables: &Variables,
    dialect: Dialect,
    depth: usize,
) -> Result<Text, String> {
    let Some((_, text)) = default else {
        return Ok(Text::default());
    };
    if depth >= DEEPEST {
        return Err("a default in a default in a default".to_owned());
    }
    let word = Word::whole(text, dialect);
    let quoted = Word {
        pieces: word.pieces.iter().map(Piece::quoted).collect(),
    };
    let mut fields = expand_at(&quoted, variables, dialect, depth + 1);
    match fields.pop() {
        None => Ok(Text::default()),
        Some(Field {
            unknown: Some(why), ..
        }) => Err(why),
        Some(field) => Ok(field.text),
    }
}

/// An expansion in a message.
fn shown(raw: &Text) -> String {
    const LONGEST: usize = 40;
    let text = raw.as_str();
    if text.chars().count() > LONGEST {
        let start: String = text.chars().take(LONGEST).collect();
        format!("{start}…")
    } else {
        text.to_owned()
    }
}
