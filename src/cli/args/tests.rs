use clap::CommandFactory;

use super::*;

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn every_flag_has_one_line_of_help() {
    let mut command = Cli::command();
    command.build();
    for subcommand in command.get_subcommands() {
        for arg in subcommand
            .get_arguments()
            .filter(|arg| arg.get_long().is_some())
        {
            let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
            assert!(
                !help.is_empty() && !help.contains('\n'),
                "{} {arg}: {help:?}",
                subcommand.get_name()
            );
        }
    }
}

#[test]
fn passwords_do_not_show_in_debug() {
    let cli = Cli::try_parse_from([
        "celery-doctor",
        "trace",
        "a",
        "--broker",
        "redis://:hunter2@h",
    ])
    .expect("valid");
    assert!(!format!("{cli:?}").contains("hunter2"));
}

#[test]
fn a_queue_takes_one_name_so_that_ids_may_follow() {
    let cli = Cli::try_parse_from([
        "celery-doctor",
        "trace",
        "--queue",
        "a",
        "--queue",
        "b",
        "id",
    ])
    .expect("valid");
    let Command::Trace(trace) = cli.command else {
        panic!("not a trace")
    };
    assert_eq!(
        (trace.connection.queues, trace.ids),
        (vec!["a".into(), "b".into()], vec!["id".to_owned()])
    );
}

fn peek(flag: &str) -> Result<Option<u64>, String> {
    let cli = Cli::try_parse_from(["celery-doctor", "trace", "a", flag]);
    match cli.map_err(|error| error.to_string())?.command {
        Command::Trace(trace) => Ok(trace.connection.peek),
        _ => Err("not a trace".to_owned()),
    }
}

#[test]
fn peek_takes_a_number_only_behind_an_equals_sign() {
    assert_eq!(peek("--peek"), Ok(Some(1000)));
    assert_eq!(peek("--peek=25"), Ok(Some(25)));
    assert_eq!(peek("--timeout=1s"), Ok(None));
    assert!(peek("--peek=1000001").is_err_and(|error| error.contains("to 1000000")));
    let cli = Cli::try_parse_from(["celery-doctor", "trace", "--peek", "7"]).expect("valid");
    let Command::Trace(trace) = cli.command else {
        panic!("not a trace")
    };
    assert_eq!(trace.ids, vec!["7".to_owned()]);
}

#[test]
fn a_timeout_that_is_no_duration_says_what_is_one() {
    let error = Cli::try_parse_from(["celery-doctor", "trace", "a", "--timeout", "3600"])
        .expect_err("no unit");
    assert!(error.to_string().contains("1h 30m"), "{error}");
}

fn targets(formats: &[Format], outputs: &[&str]) -> Result<Vec<(Format, Option<String>)>, String> {
    let args = OutputArgs {
        formats: formats.to_vec(),
        outputs: outputs.iter().map(PathBuf::from).collect(),
        ..OutputArgs::default()
    };
    let name = |file: PathBuf| file.display().to_string();
    args.targets()
        .map(|targets| {
            targets
                .into_iter()
                .map(|target| (target.format, target.file.map(name)))
                .collect()
        })
        .map_err(|error| error.to_string())
}

#[test]
fn outputs_belong_to_formats_in_order() {
    use Format::{Json, Nagios, Table};
    assert_eq!(targets(&[], &[]), Ok(vec![(Table, None)]));
    assert_eq!(targets(&[], &["r"]), Ok(vec![(Table, Some("r".into()))]));
    assert_eq!(
        targets(&[Json, Table], &["r"]),
        Ok(vec![(Json, Some("r".into())), (Table, None)])
    );
    assert_eq!(
        targets(&[Table, Json], &["-", "r"]),
        Ok(vec![(Table, None), (Json, Some("r".into()))])
    );
    assert_eq!(
        targets(&[Table, Json], &[]),
        Err(ArgsError::TwoOnStdout.to_string())
    );
    assert_eq!(
        targets(&[Table, Json], &["r", "r"]),
        Err(ArgsError::SameFile("r".into()).to_string())
    );
    assert_eq!(
        targets(&[Nagios], &[]),
        Err(ArgsError::NagiosWithoutItsCodes.to_string())
    );
    assert_eq!(
        targets(&[Nagios], &["r"]),
        Ok(vec![(Nagios, Some("r".into()))])
    );
    assert_eq!(
        targets(&[Json], &["a", "b"]),
        Err(ArgsError::OutputWithoutFormat.to_string())
    );
}
