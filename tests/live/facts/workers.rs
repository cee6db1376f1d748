//! Command lines of workers: Celery's own parsers are asked, and must understand what the tool understands.

use std::collections::BTreeMap;

use celery_doctor::routes::processes::{Kind, Told, WorkerCommand, read};
use serde::Deserialize;
use serde_json::json;

use crate::lab::Lab;

/// Random command lines, and what click and `celery multi` make of them.
const LINES: &str = r"
import json, random, shlex
import click
from celery.apps.multi import MultiParser, NamespacedOptionParser
from celery.bin.celery import celery
from celery.bin.worker import worker
random.seed(20260131)
names = ['app', 'queues', 'exclude_queues', 'include', 'hostname', 'pool', 'concurrency']
def parsed(args):
    top, rest, _ = celery.make_parser(click.Context(celery, allow_interspersed_args=False)).parse_args(list(args))
    assert rest[0] == 'worker', rest
    own, _, _ = worker.make_parser(click.Context(worker, allow_extra_args=True)).parse_args(rest[1:])
    return [{**top, **own}.get(name) for name in names]
before = [[], ['-A', 'p'], ['--app=p'], ['-Ap'], ['-A', 'p', '-b', 'redis://x'], ['-q', '-A', 'p'], ['-qCAp'],
          ['--app', 'p', '--workdir', '/srv'], ['-A', 'a', '-A', 'b'], ['-A', 'worker']]
options = [['-Q', 'a,b'], ['-Qa'], ['--queues=a,b'], ['--queues', 'x'], ['-X', 'a'], ['-Xa,b'], ['--exclude-queues=b'],
           ['-I', 'm.n'], ['--include=m'], ['-n', 'w1@%h'], ['-nw2'], ['--hostname=w3'], ['-P', 'solo'], ['-c', '4'], ['-c4'],
           ['-Ec', '3'], ['-EQ', 'z'], ['-EBQz,y'], ['-l', 'info'], ['-linfo'], ['--loglevel=INFO'], ['-Ofair'], ['-O', 'fair'],
           ['-E'], ['-B'], ['--without-gossip'], ['--time-limit=3'], ['-Q=q'], ['--autoscale=3,1'], ['-s', 'f'], ['extra'],
           ['-S', '-Q'], ['--pidfile', 'x'], ['-f', '--'], ['-Q', 'a, b'], ['-Q', ''], ['--queues='], ['--purge'], ['-D']]
spread = [['-Q', 'a,b'], ['-Q:1', 'one'], ['-Q:1-2', 'r1,r2'], ['-Q:2,3', 'l'], ['--queues:1=long'], ['-c', '3'], ['-c:2', '8'],
          ['-Q:mail', 'm'], ['-Q:mail,web', 'mw'], ['-P:web', 'solo'], ['-X', 'x'], ['-E'], ['--concurrency:1=2'], ['-c5'],
          ['-Q:2', 'two'], ['--queues=all'], ['-I', 'm']]
nodes = [['1'], ['3'], ['4'], ['mail'], ['mail', 'web'], ['web', 'mail', 'x'], ['mail@h', 'web@h', 'x@h'], ['0']]
cases = []
for _ in range(1500):
    args = random.choice(before) + ['worker'] + sum(random.choices(options, k=random.randint(0, 6)), [])
    if random.random() < .1:
        args += ['--', '-Q', 'none']
    cases.append((['celery', *args], [parsed(args)]))
while len(cases) < 3000:
    args = random.choice(nodes) + ['-A', 'p', '--pidfile=x', '--logfile=x'] + sum(random.choices(spread, k=random.randint(0, 6)), [])
    parser = NamespacedOptionParser(args)
    parser.parse()
    try:
        # A list of its own: which options there are for whom is read while the workers are made.
        found = [shlex.split(' '.join(node.argv)) for node in MultiParser(cmd='-m celery worker --detach').parse(parser)]
    except KeyError:
        continue  # options for a worker that there is not: Celery refuses the command
    cases.append((['celery', 'multi', 'start', *args], [parsed(argv[argv.index('celery') + 1:]) for argv in found]))
print(json.dumps([(shlex.join(args), workers) for args, workers in cases]))
";

/// Application, queues, excluded queues, modules, name, pool, concurrency, as they stand there.
#[derive(Deserialize, Debug, PartialEq)]
struct Parsed([Option<String>; 7]);

fn told(told: &Told<String>) -> Option<String> {
    told.is().cloned()
}

fn list(told: &Told<Vec<String>>) -> Option<String> {
    told.is().map(|names| names.join(","))
}

impl Parsed {
    fn of(worker: &WorkerCommand, with_name: bool) -> Self {
        Self([
            told(&worker.app),
            list(&worker.queues),
            list(&worker.excluded),
            list(&worker.include),
            told(&worker.hostname).filter(|_| with_name),
            told(&worker.pool),
            told(&worker.concurrency),
        ])
    }
}

#[test]
fn command_lines_are_understood_as_celery_understands_them() {
    let lab = Lab::new();
    let cases = lab.python_json(&json!({}), LINES);
    let cases: Vec<(String, Vec<Parsed>)> = serde_json::from_value(cases).unwrap();
    assert_eq!(cases.len(), 3000);
    for (line, mut expected) in cases {
        let multi = line.contains(" multi ");
        let found = read(Kind::Shell, "run.sh", line.as_bytes(), &BTreeMap::new());
        let ours: Vec<Parsed> = found
            .workers
            .iter()
            .map(|worker| Parsed::of(worker, !multi))
            .collect();
        if multi {
            // The names of workers end with this machine's.
            for parsed in &mut expected {
                parsed.0[4] = None;
            }
        }
        assert_eq!(found.unknown, [], "{line}");
        assert_eq!(ours, expected, "{line}");
    }
}
