//! The settings of Celery's own init script, which are a shell's (Celery 5.7 `extra/generic-init.d/celeryd`).

use super::shell::{Dialect, Field, Value, Variables, assignments, fields};
use super::text::Text;
use super::{Found, multi};

pub(super) fn read(found: &mut Found<'_>, outside: &Variables) {
    let variables = assignments(&found.file.whole(), outside);
    let words = |name: &str| match variables.get(name) {
        None => Vec::new(),
        Some(Value::Unknown(why)) => vec![Field {
            text: Text::shown_at(&format!("${name}"), 0),
            unknown: Some(why),
            loose: true,
        }],
        Some(Value::Known(text)) => fields(&text, &Variables::default(), Dialect::Words),
    };
    let mut nodes = words("CELERYD_NODES");
    let options = words("CELERYD_OPTS");
    if nodes.is_empty() && options.is_empty() {
        return;
    }
    if nodes.is_empty() {
        nodes.push(Field::known(Text::shown_at(
            "celery",
            options[0].text.offset(0),
        )));
    }
    let mut after = vec![Field::known(Text::shown_at("start", 0))];
    let all: Vec<Field> = [nodes.clone(), options.clone()].concat();
    after.extend(nodes);
    after.extend(options);
    if let Some(app) = words("CELERY_APP").into_iter().next() {
        after.push(Field::known(Text::shown_at("-A", app.text.offset(0))));
        after.push(app);
    }
    multi::read(&all, &[], &after, &variables, found);
}
