//! Completion scripts in real shells.

use std::process::{Command, Output};

use crate::run::Test;

/// Runs a script of a shell, in which `$1` is the completion script's path. None where the shell is not installed.
fn run(shell: &str, script: &str) -> Option<String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    let completions = Test::new().args(["completions", shell]).code(0).stdout;
    std::fs::write(file.path(), completions).unwrap();
    let mut command = Command::new(shell);
    if shell == "bash" {
        command.args(["--norc", "--noprofile"]);
    }
    if shell == "zsh" {
        command.arg("-f");
    }
    command.args(["-c", script]).env("TERM", "dumb");
    // fish has no name for what is called: its arguments are $argv.
    command.args((shell != "fish").then_some(shell));
    let Ok(Output { stdout, stderr, .. }) = command.arg(file.path()).output() else {
        eprintln!("SKIPPED: {shell} is not installed; .ci/setup installs it");
        return None;
    };
    let text = String::from_utf8(stdout).unwrap();
    Some(format!("{text}{}", String::from_utf8_lossy(&stderr)))
}

/// What bash offers for a line.
fn bash(words: &str) -> Option<String> {
    let script = format!(
        "source \"$1\"; COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
         _celery__doctor celery-doctor \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"; \
         printf '%s\\n' \"${{COMPREPLY[@]}}\""
    );
    run("bash", &script)
}

#[test]
fn bash_completes_commands_flags_and_values() {
    for (words, offered) in [
        ("celery-doctor tr", "trace"),
        ("celery-doctor trace --res", "--result-backend"),
        ("celery-doctor audit --format pro", "prometheus"),
        ("celery-doctor routes ch", "check"),
        ("celery-doctor routes check --format sa", "sarif"),
        ("celery-doctor completions zs", "zsh"),
        ("celery-doctor explain CD10", "CD101"),
    ] {
        let Some(said) = bash(words) else { return };
        assert!(said.lines().any(|line| line == offered), "{words}: {said}");
    }
}

#[test]
fn fish_completes_commands_flags_and_values() {
    for (line, offered) in [
        ("celery-doctor tr", "trace"),
        ("celery-doctor trace --res", "--result-backend"),
        ("celery-doctor audit --format pro", "prometheus"),
        ("celery-doctor routes ch", "check"),
        ("celery-doctor explain CD10", "CD101"),
    ] {
        let script = format!("source $argv[1]; complete -C '{line}'");
        let Some(said) = run("fish", &script) else {
            return;
        };
        let is_offered = |one: &str| one.split('\t').next() == Some(offered);
        assert!(said.lines().any(is_offered), "{line}: {said}");
    }
}

#[test]
fn zsh_completes_commands_flags_and_values() {
    // Without a terminal zsh completes nothing; what the script hands to its helpers shows what would be offered.
    let script = |words: &str| {
        format!(
            "autoload -U compinit; compinit -D -u 2>/dev/null; source \"$1\"; \
             _describe() {{ local -a all; all=(\"${{(@P)4}}\"); print -l -- $all }}; \
             _arguments() {{ print -l -- \"$@\" }}; \
             words=({words}); CURRENT=$#words; _celery-doctor; _celery-doctor_commands; _celery-doctor__subcmd__routes_commands"
        )
    };
    let Some(said) = run("zsh", &script("celery-doctor ''")) else {
        return;
    };
    for offered in ["trace:", "check:", "--color"] {
        assert!(said.contains(offered), "{offered}: {said}");
    }
    let completions = Test::new().args(["completions", "zsh"]).code(0).stdout;
    assert!(completions.contains("prometheus") && completions.contains("CD101"));
}
