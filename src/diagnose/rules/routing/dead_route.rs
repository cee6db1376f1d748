//! CD109: a route that takes no task.

use super::{at, did_you_mean};
use crate::celery::routing::{Entry, Pattern, Router};
use crate::diagnose::view::routing::{Judged, nearest};
use crate::diagnose::{Brokers, Check, Finding, Page, Rule, Severity};
use crate::evidence::routing::{App, Routing};

/// The rule.
pub static DEAD_ROUTE: Rule = Rule {
    code: "CD109",
    name: "dead-route",
    severity: Severity::Warning,
    brokers: Brokers::Any,
    page: Page {
        meaning: "A route takes no task: no name can match it, or an earlier route always wins. The tasks that it is \
                  meant for go elsewhere.",
        cause: "Celery makes a pattern only of a key with a `*` in it; any other text is one name. Names win over \
                patterns in their dict, then the first pattern that matches wins, in the order written, and of several \
                routers the first that has an answer.",
        read: "task_routes with its order, and the tasks that the project defines. A pattern that begins with a package \
               of the project, all of whose tasks are known, must take one of them.",
        confirm: "Run `celery-doctor routes explain TASK` for a task that the route is meant for: it names the route \
                  that wins.",
        mend: "Correct the pattern, or move it before the one that wins.",
        prevent: "Write special patterns before general ones, and let `celery-doctor routes check` run on every change.",
        references: &[
            "Celery 5.7 app/routes.py, MapRoute",
            "https://docs.celeryq.dev/en/stable/userguide/routing.html#automatic-routing",
        ],
    },
    needs: &[],
    check: Check::Routing(check),
};

fn check(routing: &Routing) -> Judged {
    let mut judged = Judged::default();
    for app in &routing.apps {
        let mut earlier: Vec<&Entry> = Vec::new();
        for router in app.config.routers.iter().flatten() {
            let Router::Map(entries) = router else {
                // What comes after it may still be asked for what it leaves.
                continue;
            };
            let of_others = earlier.len();
            for entry in entries {
                let before = match entry.pattern {
                    // A name comes before the patterns of its own map.
                    Pattern::Name(_) => earlier.get(..of_others).unwrap_or_default(),
                    _ => earlier.as_slice(),
                };
                let why = nothing(entry, app)
                    .or_else(|| winner(entry, before).map(|(why, remedy)| (why, remedy.to_owned())))
                    .or_else(|| none_of_the_project(entry, app));
                if let Some((why, remedy)) = why {
                    let text = entry.pattern.text();
                    let finding = Finding::of(
                        &DEAD_ROUTE,
                        format!("the route {text} takes no task: {why}"),
                    )
                    .evidence("route", text)
                    .evidence("app", app.name.as_str())
                    .remedy(remedy)
                    .subject("route", text);
                    let place = app
                        .routes
                        .get(entry.id)
                        .and_then(|place| place.pattern.as_ref());
                    judged.findings.push(at(finding, place));
                }
                earlier.push(entry);
            }
        }
    }
    judged
}

/// It can match no name, or none that anybody gives a task.
fn nothing(entry: &Entry, app: &App) -> Option<(String, String)> {
    match &entry.pattern {
        Pattern::Glob(glob) if glob.takes_nothing() => Some((
            "one of its ranges ends before it begins, and so matches nothing".to_owned(),
            "correct the range between the brackets".to_owned(),
        )),
        Pattern::Name(name)
            if name.contains(['?', '[', '(', '\\', '|', '^', '$', '+'])
                && !app.may_define(name) =>
        {
            Some((
                "without a * it is no pattern, but the name of one task".to_owned(),
                "write a glob with a *, or re.compile(…) for a regular expression".to_owned(),
            ))
        }
        _ => None,
    }
}

/// An earlier route that takes all that it would take, and sends it elsewhere.
fn winner(entry: &Entry, earlier: &[&Entry]) -> Option<(String, &'static str)> {
    let wins = |first: &&&Entry| match (&first.pattern, &entry.pattern) {
        (Pattern::Glob(a), Pattern::Glob(b)) => a.covers(b),
        (pattern, Pattern::Name(name)) => pattern.takes(name).unwrap_or(false),
        _ => false,
    };
    let first = earlier.iter().find(wins)?;
    // The same answer does no harm.
    let differs = match (&first.route, &entry.route) {
        (Ok(a), Ok(b)) => a != b,
        _ => false,
    };
    differs.then(|| {
        (
            format!(
                "the earlier route {} always wins over it",
                first.pattern.text()
            ),
            "move it before the route that wins, or remove it",
        )
    })
}

/// It is meant for a package of the project, and takes none of its tasks.
fn none_of_the_project(entry: &Entry, app: &App) -> Option<(String, String)> {
    let Pattern::Glob(glob) = &entry.pattern else {
        // A name that no code defines is not-registered's.
        return None;
    };
    let (package, _) = glob.literal_start().split_once('.')?;
    let all_known = app.unknown_tasks.is_empty() && !app.tasks.is_empty();
    if !all_known || !app.packages.contains(package) {
        return None;
    }
    let names = app
        .tasks
        .iter()
        .flat_map(|task| std::iter::once(&task.name).chain(&task.aliases));
    let called = app.calls.iter().filter_map(|call| call.task.as_ref().ok());
    let mut all = names.chain(&app.maybe_tasks).chain(called);
    if all.any(|name| glob.takes(name)) {
        return None;
    }
    let start = glob.literal_start().trim_end_matches('.');
    let modules: Vec<&str> = app
        .tasks
        .iter()
        .filter_map(|task| task.name.rsplit_once('.').map(|(module, _)| module))
        .collect();
    let near = nearest(start, modules.iter().copied());
    Some((
        "no task of the project matches it".to_owned(),
        format!(
            "{}remove it",
            did_you_mean(near.map(|module| format!("{module}.*")).as_deref())
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::super::testkit::{Project, gap};
    use super::*;

    #[test]
    fn a_route_that_an_earlier_one_covers_is_dead() {
        assert_eq!(DEAD_ROUTE.name, "dead-route");
        let project = Project::new().routed(&[("shop.*", "a"), ("shop.mail.*", "b")]);
        assert_eq!(
            project.found(&DEAD_ROUTE),
            ["the route shop.mail.* takes no task: the earlier route shop.* always wins over it"]
        );
        let project =
            Project::new().routed(&[("shop.mail.*", "b"), ("shop.*", "a"), ("shop.mail", "c")]);
        assert!(project.found(&DEAD_ROUTE).is_empty());
        // The same queue: what wins does not matter.
        let project = Project::new().routed(&[("shop.*", "a"), ("shop.mail.*", "a")]);
        assert!(project.found(&DEAD_ROUTE).is_empty());
    }

    #[test]
    fn a_pattern_without_a_star_is_a_name() {
        let project = Project::new().routed(&[("shop.mail?", "a")]);
        assert!(project.found(&DEAD_ROUTE)[0].contains("without a *"));
        let project = Project::new().routed(&[("shop.[z-a]*", "a")]);
        assert!(project.found(&DEAD_ROUTE)[0].contains("matches nothing"));
    }

    #[test]
    fn a_pattern_for_the_project_must_take_one_of_its_tasks() {
        let project = Project::new()
            .task("shop.tasks.send")
            .routed(&[("shop.taks.*", "a"), ("other.*", "b")]);
        let judged = project.judged(&DEAD_ROUTE);
        assert_eq!(judged.findings.len(), 1);
        assert!(
            judged.findings[0]
                .remedy
                .starts_with("did you mean shop.tasks.*?")
        );
        let mut project = project;
        project.app().unknown_tasks.push(gap("a name"));
        assert!(project.found(&DEAD_ROUTE).is_empty());
    }
}
