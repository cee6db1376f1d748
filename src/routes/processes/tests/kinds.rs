//! Kinds of files.

use super::*;

#[test]
fn files_say_by_their_names_what_they_are() {
    for (path, kind) in [
        ("Procfile", Some(Kind::Procfile)),
        ("deploy/Procfile.dev", Some(Kind::Procfile)),
        ("docker-compose.yml", Some(Kind::Compose)),
        ("docker-compose.prod.yaml", Some(Kind::Compose)),
        ("compose.yaml", Some(Kind::Compose)),
        ("compose.override.yml", Some(Kind::Compose)),
        ("Dockerfile", Some(Kind::Dockerfile)),
        ("docker/Dockerfile.worker", Some(Kind::Dockerfile)),
        ("worker.dockerfile", Some(Kind::Dockerfile)),
        ("Containerfile", Some(Kind::Dockerfile)),
        ("etc/celery.service", Some(Kind::Systemd)),
        ("celery@.service", Some(Kind::Systemd)),
        ("supervisord.conf", Some(Kind::Supervisor)),
        ("etc/supervisor/conf.d/worker.conf", Some(Kind::Supervisor)),
        ("supervisor.d/worker.ini", Some(Kind::Supervisor)),
        ("bin/start-worker.sh", Some(Kind::Shell)),
        ("etc/default/celeryd", Some(Kind::Celeryd)),
        ("etc/conf.d/celery", Some(Kind::Celeryd)),
        ("k8s/worker.yaml", Some(Kind::Kubernetes)),
        ("celeryconfig.py", None),
        ("nginx.conf", None),
        ("dockerfile.py", None),
        ("README.md", None),
        ("composer.json", None),
        ("celery", None),
        ("", None),
    ] {
        assert_eq!(kind_of(path), kind, "{path}");
    }
}

#[test]
fn procfiles() {
    check(
        Kind::Procfile,
        "web: gunicorn app.wsgi\n\
         # old: celery -A app worker -Q old\n\
         worker: celery -A app worker -Q default,mail --without-heartbeat --concurrency $CONCURRENCY\n\
         urgent: REMAP_SIGTERM=SIGQUIT bin/start-pgbouncer celery --app app worker -Q urgent\n\
         beat: celery -A app beat\n",
        &[
            "3 app default,mail c=($CONCURRENCY is not set in this file)",
            "? 4 what start-pgbouncer does is not known",
        ],
    );
}

#[test]
fn compose_files() {
    check(
        Kind::Compose,
        r#"
x-base: &base
  build: .
  env_file: .env
  environment: &env
    CELERY_APP: shop
services:
  db: {image: postgres}
  web:
    <<: *base
    command: gunicorn shop.wsgi
  worker:
    <<: *base
    command: celery worker -Q ${QUEUES:-default,mail} -l info
  listed:
    <<: *base
    command: ["celery", "-A", "shop", "worker", "-Q", "a,b", "-c", "${N}"]
  folded:
    image: x
    command: >
      sh -c "python manage.py migrate &&
             celery -A shop worker -Q reports"
  literal:
    image: x
    entrypoint: ["/bin/sh", "-c"]
    command:
      - |
        ./wait.sh
        exec celery -A shop worker -Q $$Q,late
    environment:
      - Q=slow
  unknown:
    command: celery -A shop worker $OPTS
  quoted:
    command: celery -A shop worker -Q "$MINE"
  inherits:
    extends: {service: listed}
    environment: {N: 3}
  overrides:
    extends: worker
    command: celery worker
    environment: {CELERY_WORKER_QUEUES: env}
  elsewhere-worker:
    extends: {file: base.yml, service: worker}
  entry:
    entrypoint: celery -A shop
    command: worker -Q joined
  args:
    command: worker -Q nobody
"#,
        &[
            "14 shop default,mail",
            "17 shop a,b c=($N is not set in this file)",
            "22 shop reports",
            "29 shop slow,late",
            "33 shop ($OPTS is not set in this file) X=($OPTS is not set in this file) I=($OPTS is not set in this file) n=($OPTS is not set in this file) P=($OPTS is not set in this file) c=($OPTS is not set in this file)",
            "35 shop ($MINE is not set in this file)",
            "17 shop a,b c=($N is not set in this file)",
            "41 shop env",
            "46 shop joined",
            "? 43 service elsewhere-worker extends one of another file",
            "? 49 the program that gets these arguments is not told here",
        ],
    );
}

#[test]
fn dockerfiles() {
    check(
        Kind::Dockerfile,
        r#"# syntax=docker/dockerfile:1
FROM python:3.12 AS base
ENV APP=shop \
    QUEUES="default,mail"
ARG MODE=worker
RUN pip install celery \
    # a comment within
    && echo worker
RUN <<EOF
celery -A no worker
EOF
CMD ["celery", "-A", "shop", "worker", "-Q", "base"]

FROM base as shell
CMD celery -A $APP $MODE -Q $QUEUES -c ${N:-4}

FROM base as script
ENTRYPOINT ["/docker-entrypoint.sh"]
CMD ["celery", "worker", "-Q", "scripted"]

FROM base as inherits
RUN true

FROM base as split
ENTRYPOINT ["tini", "--", "celery"]
CMD ["worker", "-Q", "split"]

FROM base as entry
ENTRYPOINT ["celery", "-A", "shop"]

FROM base as form
ENTRYPOINT exec celery -A shop worker -Q form
CMD ["ignored"]
"#,
        &[
            "12 shop base",
            "15 shop default,mail c=4",
            "19 shop scripted",
            "25 shop split",
            "32 shop form",
            "? 29 the command of celery is not told here",
        ],
    );
}

#[test]
fn systemd_units() {
    check(
        Kind::Systemd,
        "[Unit]\nDescription=celery worker\n[Service]\nEnvironment=Q=default \"OPTS=-c 2 -P solo\"\n\
         ExecStart=/opt/venv/bin/celery -A shop worker \\\n    -Q ${Q} \\\n    $OPTS\n\
         ExecStop=/bin/kill -s TERM $MAINPID\n",
        &["5 shop default P=solo c=2"],
    );
    check(
        Kind::Systemd,
        "[Service]\nEnvironmentFile=-/etc/conf.d/celery\nEnvironment=Q=a\n\
         ExecStart=/bin/sh -c '${CELERY_BIN} -A $CELERY_APP multi start $CELERYD_NODES $CELERYD_OPTS'\n",
        &["? 4 -/etc/conf.d/celery may set it"],
    );
    check(
        Kind::Systemd,
        "[Service]\nExecStart=\nExecStart=-/usr/bin/env celery -A shop worker -Q %i -n %i@%%h\n",
        &[
            "3 shop (the unit's instance is known only where it runs) n=(the unit's instance is known only where it runs)",
        ],
    );
    check(
        Kind::Systemd,
        "[Service]\nExecStart=/bin/bash -c 'cd /srv && exec celery -A shop worker -Q \"a,b\"'\n",
        &["2 shop a,b"],
    );
    // Only the service's own section counts.
    check(Kind::Systemd, "[X]\nExecStart=celery -A shop worker\n", &[]);
}

#[test]
fn supervisor_files() {
    check(
        Kind::Supervisor,
        "; celery worker\n[supervisord]\nenvironment=CELERY_APP=\"shop\"\n\n[program:celery]\n\
         command = /opt/venv/bin/celery worker -Q default,mail ; the main one\n    --concurrency=4\n\
         environment=A=\"x,y\",CELERY_WORKER_POOL=\"gevent\"\ndirectory=/srv\n\n[program:named]\n\
         command=celery -A shop worker -n w%(process_num)02d@%%h -Q %(ENV_QUEUES)s\n\
         [program:shell]\ncommand=bash -c \"exec celery -A shop worker -Q a\"\n\
         [eventlistener:x]\ncommand=celery -A shop worker\n",
        &[
            "6 shop default,mail P=gevent c=4",
            "12 shop (ENV_QUEUES is known only to supervisord) n=(process_num is known only to supervisord)",
            "14 shop a",
        ],
    );
}

#[test]
fn settings_of_the_init_script() {
    check(
        Kind::Celeryd,
        "CELERYD_NODES=\"mail web\"\nCELERY_BIN=/opt/celery\nCELERY_APP=\"shop\"\n\
         CELERYD_OPTS=\"-c 2 -Q:mail mail -Q:web web,default\"\n",
        &[
            "1 shop mail n=mail@%h c=2",
            "1 shop web,default n=web@%h c=2",
        ],
    );
    check(
        Kind::Celeryd,
        "CELERYD_NODES=$N\nCELERY_APP=shop\n",
        &["? 1 $N is not set in this file"],
    );
    check(Kind::Celeryd, "CELERYBEAT_OPTS=-x\n", &[]);
}

#[test]
fn kubernetes_manifests() {
    check(
        Kind::Kubernetes,
        r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: celery-worker}
spec:
  replicas: 2
  template:
    spec:
      initContainers:
        - name: wait
          command: [sh, -c, "until nc rabbit; do sleep 1; done"]
      containers:
        - name: worker
          image: shop
          env:
            - {name: QUEUES, value: "default,mail"}
            - name: SECRET
              valueFrom: {secretKeyRef: {name: x, key: y}}
          command: ["celery"]
          args: ["-A", "shop", "worker", "-Q", "$(QUEUES)", "-n", "$(SECRET)@$(OTHER)"]
---
apiVersion: batch/v1
kind: CronJob
spec:
  jobTemplate:
    spec:
      template:
        spec:
          containers:
            - name: nightly
              command:
                - /bin/sh
                - -c
                - |
                  set -e
                  celery -A shop worker -Q nightly
---
apiVersion: v1
kind: List
items:
  - apiVersion: v1
    kind: Pod
    spec:
      containers:
        - {name: p, args: [celery, -A, shop, worker, -Q, pod]}
        - {name: q, args: [worker, -Q, nobody]}
---
services:
  worker: {command: celery -A shop worker}
"#,
        &[
            "19 shop default,mail n=($SECRET is set from outside the manifest)",
            "36 shop nightly",
            "45 shop pod",
            "? 46 the program that gets these arguments is not told here",
        ],
    );
    // A workflow and a chart are no manifests; what might be one and can't be read is said.
    check(
        Kind::Kubernetes,
        "jobs:\n  worker:\n    run: celery -A shop worker\n",
        &[],
    );
    let chart = "apiVersion: v1\nkind: Pod\nspec:\n  {{- if .Values.celery.worker }}\n  x: 1\n";
    assert!(found(Kind::Kubernetes, chart)[0].starts_with("? 4 the YAML can't be read: "));
}

#[test]
fn places_in_yaml_are_right_whatever_stands_before() {
    for (end, quote) in [("\n", ""), ("\r\n", ""), ("\n", "\""), ("\n", "'")] {
        let text = format!(
            "# ünïcödé 日本{end}services:{end}  été: {{ x: 'ü' }}{end}  wörker:{end}    \
             command: {quote}celery -A shop worker -Q mail{quote}{end}"
        );
        let processes = read(Kind::Compose, "c.yml", text.as_bytes(), &BTreeMap::new());
        let worker = &processes.workers[0];
        let start = 14 + u32::from(!quote.is_empty());
        assert_eq!(
            (worker.location.line, worker.location.column),
            (5, start),
            "{text:?}"
        );
        let queues = worker.queues_location.as_ref().expect("they are named");
        assert_eq!((queues.column, queues.end_column), (start + 25, start + 29));
    }
    let block = "services:\n  w:\n    command:\n      - sh\n      - -c\n      - |\n        : é\n\n        \
                 celery -A p worker \\\n          -Q mail\n";
    let processes = read(Kind::Compose, "c.yml", block.as_bytes(), &BTreeMap::new());
    let worker = &processes.workers[0];
    assert_eq!((worker.location.line, worker.location.column), (9, 9));
    let queues = worker.queues_location.as_ref().expect("they are named");
    assert_eq!(
        (queues.line, queues.column, queues.end_column),
        (10, 14, 18)
    );
}
