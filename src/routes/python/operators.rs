//! Operators and comparisons.

use std::cell::RefCell;
use std::rc::Rc;

use ruff_python_ast::{self as ast, BoolOp, CmpOp, Operator};

use super::expression::as_text;
use super::value::{Kind, Place, Value, equals};
use super::{MAX_ITEMS, MAX_TEXT, Walk};

impl<'a> Walk<'_, 'a> {
    pub(super) fn either_or(&mut self, operation: &'a ast::ExprBoolOp, at: Place) -> Value {
        let mut last = None;
        for expression in &operation.values {
            let value = self.eval(expression);
            match (operation.op, value.truth()) {
                (BoolOp::Or, Some(true)) | (BoolOp::And, Some(false)) => return value,
                (_, Some(_)) => last = Some(value),
                (_, None) => return self.because(&value, at),
            }
        }
        last.unwrap_or_else(|| self.unknown(at, "it is not worked out"))
    }

    pub(super) fn compare(&mut self, compare: &'a ast::ExprCompare, at: Place) -> Value {
        let left = self.eval(&compare.left);
        let mut rights = Vec::new();
        for right in &compare.comparators {
            rights.push(self.eval(right));
        }
        let ([op], [right]) = (&*compare.ops, rights.as_slice()) else {
            return self.unknown(at, "a chain of comparisons is not worked out");
        };
        let among = |item: &Value, all: &Value| {
            if let (Kind::Str(part), Kind::Str(text)) = (&item.kind, &all.kind) {
                return Some(text.contains(&**part));
            }
            {
                let items = all.items()?;
                let mut result = Some(false);
                for other in &items {
                    match equals(item, other) {
                        Some(true) => return Some(true),
                        Some(false) => {}
                        None => result = None,
                    }
                }
                result
            }
        };
        let truth = match op {
            CmpOp::Eq | CmpOp::Is => equals(&left, right),
            CmpOp::NotEq | CmpOp::IsNot => equals(&left, right).map(|equal| !equal),
            CmpOp::In => among(&left, right),
            CmpOp::NotIn => among(&left, right).map(|is| !is),
            CmpOp::Lt | CmpOp::LtE | CmpOp::Gt | CmpOp::GtE => match (&left.kind, &right.kind) {
                (Kind::Int(a), Kind::Int(b)) => Some(match op {
                    CmpOp::Lt => a < b,
                    CmpOp::LtE => a <= b,
                    CmpOp::Gt => a > b,
                    _ => a >= b,
                }),
                _ => None,
            },
        };
        match truth {
            Some(truth) => Value::new(Kind::Bool(truth), at),
            None if left.gap().is_some() => self.because(&left, at),
            None => self.because(right, at),
        }
    }

    pub(super) fn binary(&self, left: &Value, op: Operator, right: &Value, at: Place) -> Value {
        let kind = match (&left.kind, op, &right.kind) {
            (Kind::Unknown(gap), _, _) | (_, _, Kind::Unknown(gap)) => Kind::Unknown(gap.clone()),
            (Kind::Str(a), Operator::Add, Kind::Str(b)) if a.len() + b.len() <= MAX_TEXT => {
                Kind::Str(format!("{a}{b}").into())
            }
            (Kind::Int(a), Operator::Add, Kind::Int(b)) => Kind::Int(a.wrapping_add(*b)),
            (Kind::Int(a), Operator::Sub, Kind::Int(b)) => Kind::Int(a.wrapping_sub(*b)),
            (Kind::Int(a), Operator::Mult, Kind::Int(b)) => Kind::Int(a.wrapping_mul(*b)),
            (Kind::List(_), Operator::Add, Kind::List(_))
            | (Kind::Tuple(_), Operator::Add, Kind::Tuple(_)) => {
                let (Some(mut items), Some(more)) = (left.items(), right.items()) else {
                    return self.unknown(at, "one of the two lists is known only when it runs");
                };
                items.extend(more);
                if items.len() > MAX_ITEMS {
                    return self.unknown(at, "the list is too long");
                }
                if matches!(left.kind, Kind::List(_)) {
                    return self.list(Ok(items), at);
                }
                Kind::Tuple(Rc::new(items))
            }
            (Kind::Set(a), Operator::BitOr, Kind::Set(b)) => {
                Kind::Set(Rc::new(a.iter().chain(b.iter()).cloned().collect()))
            }
            (Kind::Dict(_), Operator::BitOr, Kind::Dict(_)) => {
                let mut dict = self.new_dict();
                self.merge_into(&mut dict, left, at);
                self.merge_into(&mut dict, right, at);
                Kind::Dict(Rc::new(RefCell::new(dict)))
            }
            (Kind::Str(format), Operator::Mod, _) => {
                let values = match &right.kind {
                    Kind::Tuple(items) => items.as_ref().clone(),
                    _ => vec![right.clone()],
                };
                match percent(format, &values) {
                    Some(text) => Kind::Str(text.into()),
                    None => return self.unknown(at, "this formatting is not worked out"),
                }
            }
            _ => return self.unknown(at, "this operation is not worked out"),
        };
        Value::new(kind, at)
    }
}

/// `'%s-%d' % (...)`.
fn percent(format: &str, values: &[Value]) -> Option<String> {
    let mut out = String::new();
    let mut values = values.iter();
    let mut chars = format.chars();
    while let Some(character) = chars.next() {
        if character != '%' {
            out.push(character);
            continue;
        }
        match chars.next()? {
            '%' => out.push('%'),
            's' => out.push_str(&as_text(values.next()?)?),
            'd' => match values.next()?.kind {
                Kind::Int(number) => out.push_str(&number.to_string()),
                _ => return None,
            },
            _ => return None,
        }
        if out.len() > MAX_TEXT {
            return None;
        }
    }
    values.next().is_none().then_some(out)
}
