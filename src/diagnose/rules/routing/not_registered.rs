//! CD202, by a project's files: a name is routed, or put on the beat schedule, and no code defines it.

use super::{at, did_you_mean};
use crate::celery::routing::Pattern;
use crate::diagnose::Finding;
use crate::diagnose::rules::waiting::not_registered::NOT_REGISTERED;
use crate::diagnose::view::routing::{Judged, nearest};
use crate::evidence::routing::{App, Location, Routing};

/// Checks a project's routing. Only names of the project's own packages are judged: of others it does not have the code.
pub fn check(routing: &Routing) -> Judged {
    let mut judged = Judged::default();
    for app in &routing.apps {
        if app.tasks.is_empty() {
            continue;
        }
        let mut found = Vec::new();
        for entry in app.entries() {
            if let Pattern::Name(name) = &entry.pattern {
                let place = app
                    .routes
                    .get(entry.id)
                    .and_then(|place| place.pattern.as_ref());
                found.extend(undefined(app, name, "is routed", place));
            }
        }
        for call in app.calls.iter().filter(|call| call.beat) {
            if let Ok(name) = &call.task {
                let what = "is on the beat schedule";
                found.extend(undefined(app, name, what, call.location.as_ref()));
            }
        }
        // A task whose name is unknown may be just the one.
        match app.unknown_tasks.first() {
            None => judged.findings.extend(found),
            Some(gap) if !found.is_empty() => judged.unknown(gap),
            Some(_) => {}
        }
    }
    judged
}

fn undefined(app: &App, name: &str, what: &str, place: Option<&Location>) -> Option<Finding> {
    let (package, _) = name.split_once('.')?;
    // A key with the signs of a pattern is dead-route's.
    let plain = name
        .chars()
        .all(|c| c.is_alphanumeric() || "._".contains(c));
    if !plain || !app.packages.contains(package) || app.may_define(name) {
        return None;
    }
    let near = nearest(name, app.tasks.iter().map(|task| task.name.as_str()));
    let message = format!("the task {name} {what}, and no code of the project defines it");
    let finding = Finding::of(&NOT_REGISTERED, message)
        .evidence("task", name)
        .evidence("app", app.name.as_str())
        .evidence("tasks", app.tasks.len())
        .remedy(format!(
            "{}define the task, or take its name away: a worker throws a task away that it does not know",
            did_you_mean(near)
        ))
        .subject("task", name);
    Some(at(finding, place))
}

#[cfg(test)]
mod tests {
    use super::super::testkit::{Project, gap};
    use super::*;

    #[test]
    fn a_misspelt_task_is_found() {
        let project = Project::new()
            .task("shop.tasks.send_mail")
            .routed(&[("shop.tasks.send_mial", "q")]);
        let judged = project.judged(&NOT_REGISTERED);
        assert_eq!(judged.findings[0].name, "not-registered");
        assert!(
            judged.findings[0]
                .remedy
                .starts_with("did you mean shop.tasks.send_mail?")
        );
    }

    #[test]
    fn names_of_others_and_names_that_may_be_defined_are_left_alone() {
        let mut project = Project::new().task("shop.tasks.send_mail").routed(&[
            ("other.tasks.send", "q"),
            ("shop.tasks.made", "q"),
            ("shop.*", "q"),
            ("plain", "q"),
        ]);
        project
            .app()
            .maybe_tasks
            .insert("shop.tasks.made".to_owned());
        assert_eq!(project.judged(&NOT_REGISTERED), Judged::default());
        let mut project = project.routed(&[("shop.tasks.send_mial", "q")]);
        project.app().unknown_tasks.push(gap("its name"));
        let judged = project.judged(&NOT_REGISTERED);
        assert!(judged.findings.is_empty() && judged.unknown == [gap("its name")]);
    }
}
