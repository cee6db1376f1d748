//! The README shows what the tool prints.

use crate::run::Test;

#[test]
fn the_first_screen_is_real_output() {
    let readme = include_str!("../../README.md");
    let (_, after) = readme
        .split_once("```console\n$ celery-doctor ")
        .expect("a console block");
    let (command, shown) = after.split_once('\n').expect("a command line");
    let (shown, _) = shown.split_once("\n```").expect("the block ends");
    let incident = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/fixtures/incidents/killed-worker.json.gz"
    );
    let [trace, id] = command.split(' ').collect::<Vec<_>>()[..] else {
        panic!("a trace of one id")
    };
    Test::new()
        .args([trace, id, "--snapshot", incident])
        .code(1)
        .says(shown);
}
