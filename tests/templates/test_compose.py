"""Holds the Docker side against the rest of the project: docker-compose.yml, and the files that it mounts.

Offline; runs no container. Versions, ports, users and topics are read from the Rust sources that own them.

    pip install -r tests/templates/requirements.txt
    python -m pytest -q tests/templates
"""

import json
import os
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES = COMPOSE["services"]
ONE_SHOTS = {"kafka-init", "connect-init"}
# What a container on a laptop may be reached by; nothing may listen on the network.
LOOPBACK = "127.0.0.1:"
REQUIRED = re.compile(r"^\$\{[A-Z_]+:\?[^}]+\}$")


def rust(path):
    return (ROOT / path).read_text()


def const(source, name):
    """The value of a `pub const NAME: T = value;`, text or number."""
    found = re.search(rf"\bconst {name}\s*:\s*[^=]+=\s*(?:\"([^\"]*)\"|(\d+))\s*;", source)
    assert found, f"no constant {name}: did it move? This test reads it by name"
    return found[1] if found[1] is not None else int(found[2])


VERSIONS = rust("tools/stack/src/versions.rs")


def image(service):
    name, _, tag = SERVICES[service]["image"].rpartition(":")
    return name, tag


def host_ports(service):
    """(host port, container port) of each published port."""
    ports = []
    for port in SERVICES[service].get("ports", []):
        assert str(port).startswith(LOOPBACK), f"{service} listens beyond this machine: {port}"
        host, container = str(port)[len(LOOPBACK) :].split(":")
        ports.append((int(host), int(container)))
    return ports


# Every service


@pytest.mark.parametrize("service", SERVICES)
def test_image_is_pinned(service):
    name, tag = image(service)
    assert name, "an image without a tag is whatever was pushed last"
    # At least major.minor.patch: a shorter tag moves.
    assert re.fullmatch(r"v?\d+\.\d+\.\d+(\.\d+)*", tag), f"{name}:{tag} is not one fixed release"


@pytest.mark.parametrize("service", SERVICES)
def test_ports_are_bound_to_loopback(service):
    host_ports(service)
    assert SERVICES[service].get("network_mode") is None


def test_host_ports_are_distinct():
    ports = [host for service in SERVICES for host, _ in host_ports(service)]
    assert len(ports) == len(set(ports))


@pytest.mark.parametrize("service", SERVICES)
def test_health_or_one_shot(service):
    definition = SERVICES[service]
    if service in ONE_SHOTS:
        assert definition["restart"] == "no"
        # `up --wait` fails on a container that ended, unless another one waits for that end.
        assert any(
            other.get("depends_on", {}).get(service, {}).get("condition") == "service_completed_successfully"
            for other in SERVICES.values()
        )
    else:
        assert definition["restart"] == "unless-stopped"
        assert definition["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")


@pytest.mark.parametrize("service", SERVICES)
def test_waits_for_readiness_not_for_start(service):
    depends = SERVICES[service].get("depends_on", {})
    assert isinstance(depends, dict), "a bare list waits for a process, not for an answer"
    for name, edge in depends.items():
        wanted = "service_completed_successfully" if name in ONE_SHOTS else "service_healthy"
        assert edge["condition"] == wanted


@pytest.mark.parametrize("service", SERVICES)
def test_no_secret_is_written_down(service):
    for name, value in SERVICES[service].get("environment", {}).items():
        if "PASSWORD" in name or "SECRET" in name or "TOKEN" in name:
            assert REQUIRED.match(str(value)), f"{service}.{name} must come from .env, with no default"


@pytest.mark.parametrize("service", SERVICES)
def test_mounted_files_exist(service):
    for volume in SERVICES[service].get("volumes", []):
        source = volume.split(":")[0]
        if source.startswith("."):
            assert (ROOT / source).exists(), f"{service} mounts {source}, which isn't there"
            assert volume.endswith(":ro")
        else:
            assert source in COMPOSE["volumes"]


def test_env_example_names_each_variable_and_no_password():
    compose = re.sub(r"(?m)^\s*#.*$", "", (ROOT / "docker-compose.yml").read_text())
    used = {name for name, _ in re.findall(r"(?<!\$)\$\{([A-Z_0-9]+)(:[?-])?", compose)}
    lines = [line for line in (ROOT / ".env.example").read_text().splitlines() if line and not line.startswith("#")]
    example = dict(line.split("=", 1) for line in lines)
    required = {name for name in used if re.search(rf"\$\{{{name}:\?", compose)}
    assert required <= example.keys()
    assert all(example[name] == "" for name in required)
    assert example.keys() <= used
    assert ".env" in [line.strip("/") for line in (ROOT / ".gitignore").read_text().splitlines()]


def test_compose_itself_accepts_the_file():
    """With Docker's own parser where it is installed; the rest of this file holds everywhere."""
    command = next(
        (c for c in (["docker-compose"], ["docker", "compose"]) if shutil.which(c[0]) and runs([*c, "version"])), None
    )
    if command is None:
        pytest.skip("no docker compose on this machine")
    passwords = {name: "x" for name in re.findall(r"\$\{([A-Z_]+):\?", (ROOT / "docker-compose.yml").read_text())}
    for profile in ([], ["--profile", "connect"]):
        done = subprocess.run(
            [*command, *profile, "--env-file", os.devnull, "-f", str(ROOT / "docker-compose.yml"), "config", "--quiet"],
            env={**os.environ, **passwords},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr


def runs(command):
    return subprocess.run(command, capture_output=True).returncode == 0


# Against tools/stack


@pytest.mark.parametrize(
    ("service", "name", "const_name"),
    [("mysql", "mysql", "MYSQL"), ("kafka", "apache/kafka", "KAFKA"), ("clickhouse", "clickhouse/clickhouse-server", "CLICKHOUSE")],
)
def test_release_line_is_that_of_the_stack(service, name, const_name):
    line = const(VERSIONS, const_name)
    found, tag = image(service)
    assert found == name
    assert tag == line or tag.startswith(line + "."), f"{service} is {tag}, tools/stack runs {line}"


def test_chdb_is_of_the_clickhouse_line():
    assert const(VERSIONS, "CHDB").startswith(const(VERSIONS, "CLICKHOUSE") + ".")


def test_kafka_images_are_one_version():
    assert image("kafka-init") == image("connect") == image("kafka")


@pytest.mark.parametrize(("service", "const_name"), [("mysql", "MYSQL_PORT"), ("kafka", "KAFKA_PORT"), ("clickhouse", "CLICKHOUSE_PORT")])
def test_port_is_that_of_the_stack(service, const_name):
    port = const(VERSIONS, const_name)
    assert host_ports(service) == [(port, port)]


def test_service_names_are_those_of_the_stack():
    for name in ("MYSQL_SERVICE", "KAFKA_SERVICE", "CLICKHOUSE_SERVICE"):
        assert const(VERSIONS, name) in SERVICES


def test_mysql_user_and_database_are_those_of_the_stack():
    environment = SERVICES["mysql"]["environment"]
    user = const(VERSIONS, "MYSQL_USER")
    assert environment["MYSQL_USER"] == user
    assert environment["MYSQL_DATABASE"] == const(VERSIONS, "MYSQL_DATABASE")
    assert f"GRANT PROCESS ON *.* TO '{user}'@'%'" in COMPOSE["configs"]["mysql-grants"]["content"]


def test_mysql_runs_with_the_settings_of_the_stack():
    stack = set(re.findall(r'"(--[a-z-]+=[^"{}]+)"', rust("tools/stack/src/services/mysql.rs")))
    for setting in ("--default-time-zone", "--max-connections", "--innodb-buffer-pool-size"):
        (ours,) = [flag for flag in SERVICES["mysql"]["command"] if flag.startswith(setting + "=")]
        assert ours in stack


# Kafka


def test_topics_are_those_of_the_broker_crate():
    source = rust("shared/broker/src/topics.rs")
    names = re.findall(r"[A-Z_]+", re.search(r"const SOURCES: [^=]*=\s*\[(.*?)\];", source, re.S)[1])
    assert names, "topics.rs changed its shape: teach this test the new one"
    topics = [const(source, name) for name in names]
    wanted = {topic: const(source, "PARTITIONS") for topic in topics}
    wanted |= {topic + beside: 1 for topic in topics for beside in (".dlq", ".retry", ".dlq.audit")}
    for name, suffix in (("DEAD_LETTERS", ".dlq"), ("RETRIES", ".retry"), ("AUDIT", ".audit")):
        assert const(source, name) == suffix
    listed = dict(entry.split(":") for entry in SERVICES["kafka-init"]["environment"]["TOPICS"].split())
    assert {name: int(partitions) for name, partitions in listed.items()} == wanted
    size = const(source, "DEAD_LETTER_BYTES")
    (script,) = SERVICES["kafka-init"]["command"]
    assert f'*.dlq:*) config="--config max.message.bytes={size} --config retention.ms=-1"' in script
    assert f'*.retry:*) config="--config max.message.bytes={size}"' in script
    assert '*.audit:*) config="--config cleanup.policy=compact"' in script


def test_each_listener_is_reachable_by_its_readers():
    environment = SERVICES["kafka"]["environment"]
    listeners = dict(entry.split("://") for entry in environment["KAFKA_LISTENERS"].split(","))
    advertised = dict(entry.split("://") for entry in environment["KAFKA_ADVERTISED_LISTENERS"].split(","))
    assert advertised["HOST"] == f"127.0.0.1:{const(VERSIONS, 'KAFKA_PORT')}"
    assert advertised["CONTAINERS"] == "kafka" + listeners["CONTAINERS"]
    assert environment["KAFKA_CONTROLLER_QUORUM_VOTERS"] == "1@kafka" + listeners["CONTROLLER"]
    mapped = dict(entry.split(":") for entry in environment["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"].split(","))
    assert mapped.keys() == listeners.keys()
    assert environment["KAFKA_INTER_BROKER_LISTENER_NAME"] in advertised


# ClickHouse


USERS = ElementTree.parse(ROOT / "clickhouse/server/users.xml").getroot()


def test_clickhouse_users_are_those_of_the_stack():
    writer, reader = const(VERSIONS, "CLICKHOUSE_USER"), const(VERSIONS, "CLICKHOUSE_READER")
    database = const(VERSIONS, "CLICKHOUSE_DATABASE")
    users = {user.tag: user for user in USERS.find("users")}
    assert users.keys() == {writer, reader}
    grants = {name: [query.text for query in user.find("grants")] for name, user in users.items()}
    assert all(grant.endswith((f" ON {database}.*", "GRANT SELECT ON system.*")) for grant in grants[writer])
    # Of users and roles: ALL on a database would bring them along.
    assert not any(re.search(r"\b(ALL|USER|ROLE|IMPERSONATE)\b", grant) for grant in grants[writer])
    assert grants[reader] == [f"GRANT SELECT ON {database}.*"]
    for user in users.values():
        password = user.find("password")
        assert password.text is None
        assert password.get("from_env") in SERVICES["clickhouse"]["environment"]


def test_reader_is_limited_as_in_the_stack():
    profile = USERS.find("profiles").find(USERS.find("users/grafana/profile").text)
    assert profile.find("readonly").text == "2"
    body = re.search(r"READER_SETTINGS[^=]*=\s*&\[(.*?)\];", VERSIONS, re.S)[1]
    limits = dict(re.findall(r'\("(\w+)", "(\w+)"\)', body))
    assert limits
    for name, value in limits.items():
        assert profile.find(name).text == value, name
        # readonly = 2 lets a reader change settings; without a constraint the limits would be advice.
        constraint = profile.find(f"constraints/{name}")
        assert int(constraint.find("min").text) >= 1, f"{name} = 0 would mean «no limit»"
        assert int(constraint.find("max").text) >= int(value)


def test_prometheus_reads_what_is_served():
    port = ElementTree.parse(ROOT / "clickhouse/server/config.xml").getroot().find("prometheus/port").text
    config = yaml.safe_load((ROOT / "prometheus/prometheus.yml").read_text())
    targets = {job["job_name"]: job["static_configs"][0]["targets"] for job in config["scrape_configs"]}
    assert targets["clickhouse"] == [f"clickhouse:{port}"]
    for name, (target,) in targets.items():
        assert name in SERVICES
        assert target.split(":")[0] in (name, "127.0.0.1")


def test_promtool_accepts_the_configuration():
    if shutil.which("promtool") is None:
        pytest.skip("no promtool on this machine")
    done = subprocess.run(
        ["promtool", "check", "config", str(ROOT / "prometheus/prometheus.yml")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


RULES = sorted((ROOT / "prometheus/rules").glob("*.yml"))


def test_prometheus_takes_what_functions_send_and_reads_the_rules():
    prometheus = SERVICES["prometheus"]
    assert "--web.enable-otlp-receiver" in prometheus["command"]
    assert "./prometheus/rules:/etc/prometheus/rules:ro" in prometheus["volumes"]
    config = yaml.safe_load((ROOT / "prometheus/prometheus.yml").read_text())
    # Beside the configuration, in the container as here.
    assert config["rule_files"] == ["rules/*.yml"]


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.name)
def test_each_alert_says_what_to_do_and_is_tested(path):
    rules = [rule for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]
    tests = yaml.safe_load((ROOT / "prometheus/tests" / path.name).read_text())["tests"]
    tested = json.dumps(tests)
    names = [rule["alert"] for rule in rules]
    assert names and len(set(names)) == len(names)
    for rule in rules:
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert rule["annotations"]["summary"]
        assert "`cargo outflow " in rule["annotations"]["action"], f"{rule['alert']} names no command"
        assert rule["alert"] in tested, f"{rule['alert']} has no test"


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.name)
def test_promtool_accepts_the_rules(path):
    if shutil.which("promtool") is None:
        pytest.skip("no promtool on this machine")
    tests = ROOT / "prometheus/tests" / path.name
    done = subprocess.run(["promtool", "test", "rules", str(tests)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


# Kafka Connect

SINK = json.loads((ROOT / "kafka-connect/clickhouse-sink.json").read_text())
# What ClickHouseSinkConfig of 1.5.0 defines. A key it doesn't know is ignored without a word.
SINK_KEYS = set(
    """
    hostname port database username password ssl jdbcConnectionProperties timeoutSeconds retryCount exactlyOnce
    suppressTableExistenceException clickhouseSettings topic2TableMap errors.tolerance tableRefreshInterval
    customInsertFormat insertFormat proxyType proxyHost proxyPort zkPath zkDatabase enableDbTopicSplit dbTopicSplitChar
    keeperOnCluster dateTimeFormats tolerateStateMismatch bypassSchemaValidation bypassFieldCleanup
    ignorePartitionsWhenBatching bufferCount bufferFlushTime clickhouseClientInsertTimeoutMs reportInsertedOffsets
    debeziumCDCEnabled auto.evolve auto.evolve.ddl.refresh.retries auto.evolve.struct.to.json errors.retry.timeout
    clusterName ssl_socket_sni
    """.split()
)
# What Connect itself defines for every sink.
CONNECT_KEYS = set(
    """
    name connector.class tasks.max topics key.converter value.converter value.converter.schemas.enable
    errors.tolerance errors.log.enable errors.deadletterqueue.topic.name
    errors.deadletterqueue.topic.replication.factor errors.deadletterqueue.context.headers.enable
    """.split()
)


def properties(path):
    lines = [line for line in (ROOT / path).read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def test_sink_keys_are_known():
    ours = {key for key in SINK if not key.startswith("consumer.override.")}
    assert ours <= SINK_KEYS | CONNECT_KEYS
    # Their defaults are a TLS port and the user `default`: named always.
    assert {"hostname", "port", "ssl", "database", "username", "password", "exactlyOnce"} <= ours


def test_sink_speaks_to_this_clickhouse():
    assert SINK["hostname"] == const(VERSIONS, "CLICKHOUSE_SERVICE")
    assert int(SINK["port"]) == const(VERSIONS, "CLICKHOUSE_PORT")
    assert SINK["ssl"] == "false"
    assert SINK["database"] == const(VERSIONS, "CLICKHOUSE_DATABASE")
    assert SINK["username"] == const(VERSIONS, "CLICKHOUSE_USER")


def test_sink_reads_the_rows_and_keeps_what_is_refused():
    topics = rust("shared/broker/src/topics.rs")
    rows = [const(topics, name) for name in ("ORDERS_ANALYTICS", "ORDER_ITEMS_ANALYTICS", "INVENTORY_ANALYTICS")]
    assert SINK["topics"].split(",") == rows
    # A topic of rows has the name of their table.
    assert SINK["topic2TableMap"].split(",") == [f"{topic}={topic}" for topic in rows]
    migrations = "".join(path.read_text() for path in (ROOT / "clickhouse").glob("*.sql"))
    assert all(f"CREATE TABLE IF NOT EXISTS ${{database}}.{table}\n" in migrations for table in rows)
    assert SINK["errors.tolerance"] == "all"
    # The sink knows one place for whatever it reads; a header names the topic.
    assert SINK["errors.deadletterqueue.topic.name"] == f"{rows[0]}.dlq"
    assert SINK["consumer.override.max.poll.records"] == "5000"
    # A task takes whole partitions: more tasks than partitions would idle.
    listed = dict(entry.split(":") for entry in SERVICES["kafka-init"]["environment"]["TOPICS"].split())
    assert int(SINK["tasks.max"]) <= min(int(listed[topic]) for topic in rows)


def test_sink_password_is_a_reference_that_the_worker_resolves():
    provider, name = re.fullmatch(r"\$\{(\w+):(\w+)\}", SINK["password"]).groups()
    worker = properties("kafka-connect/worker.properties")
    assert provider in worker["config.providers"].split(",")
    assert worker[f"config.providers.{provider}.class"].endswith(".EnvVarConfigProvider")
    assert re.search(worker[f"config.providers.{provider}.param.allowlist.pattern"], name)
    assert name in SERVICES["connect"]["environment"]


def test_worker_reaches_this_kafka():
    worker = properties("kafka-connect/worker.properties")
    containers = dict(e.split("://") for e in SERVICES["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"].split(","))
    assert worker["bootstrap.servers"] == containers["CONTAINERS"]
    assert any(volume.split(":")[1] == worker["plugin.path"] for volume in SERVICES["connect"]["volumes"])


def test_connect_is_off_unless_asked_for():
    """load-analytics and Connect would load the same rows: exact all the same, and twice the work."""
    assert all(SERVICES[name].get("profiles") == ["connect"] for name in ("connect", "connect-init"))
    assert all("profiles" not in service for name, service in SERVICES.items() if not name.startswith("connect"))


# Grafana

DASHBOARDS = sorted((ROOT / "grafana/dashboards").glob("*.json"))


def data_sources():
    file = yaml.safe_load((ROOT / "grafana/provisioning/datasources/outflow.yaml").read_text())
    return {source["uid"]: source for source in file["datasources"]}


def test_clickhouse_data_source_is_the_reader():
    source = data_sources()["outflow-clickhouse"]
    settings = source["jsonData"]
    assert source["type"] == "grafana-clickhouse-datasource"
    assert settings["host"] == const(VERSIONS, "CLICKHOUSE_SERVICE")
    assert (settings["port"], settings["protocol"]) == (const(VERSIONS, "CLICKHOUSE_PORT"), "http")
    assert settings["username"] == const(VERSIONS, "CLICKHOUSE_READER")
    assert settings["defaultDatabase"] == const(VERSIONS, "CLICKHOUSE_DATABASE")
    variable = re.fullmatch(r"\$([A-Z_]+)", source["secureJsonData"]["password"])[1]
    assert variable in SERVICES["grafana"]["environment"]


def test_plugin_is_pinned_and_is_the_official_one():
    plugins = SERVICES["grafana"]["environment"]["GF_PLUGINS_PREINSTALL_SYNC"]
    assert re.fullmatch(r"grafana-clickhouse-datasource@4\.\d+\.\d+", plugins)


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.name)
def test_dashboard_is_whole(path):
    dashboard = json.loads(path.read_text())
    assert dashboard["uid"] and dashboard["title"] and dashboard["schemaVersion"] >= 39
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    sources = data_sources()
    taken = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] >= 0 and place["x"] + place["w"] <= 24, "Grafana's grid is 24 wide"
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert not cells & taken, f"{panel['title']} covers another panel"
        taken |= cells
        assert panel["title"] and panel["description"]
        for target in panel["targets"]:
            for reference in (panel["datasource"], target["datasource"]):
                assert sources[reference["uid"]]["type"] == reference["type"]
            if target["datasource"]["uid"] == "outflow-clickhouse":
                assert target["rawSql"].lstrip().upper().startswith("SELECT")
                assert target["format"] == (0 if panel["type"] == "timeseries" else 1)
                # On an hourly table an interval of seconds draws holes.
                assert "$__timeInterval" not in target["rawSql"]
            else:
                assert target["expr"] and target["instant"] is not target["range"]


def test_sales_dashboard_answers_the_four_questions():
    sales = json.loads((ROOT / "grafana/dashboards/sales.json").read_text())
    titles = [panel["title"] for panel in sales["panels"]]
    assert titles == ["Revenue by hour", "Orders and revenue today", "Average order value", "Orders by status"]
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home.endswith("/sales.json")
