"""docker-compose.yml against the settings of the service and the files it mounts."""

from pathlib import Path

import pytest
import yaml

from server.settings import Settings

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def compose():
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())


def settings_from(environment, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, "0" * 64 if value.startswith("${") else value)
    return Settings(index=Path("/index"))


@pytest.mark.parametrize("service", ["retriever", "retriever-gpu"])
def test_every_variable_is_a_setting_and_is_accepted(compose, service, monkeypatch):
    environment = compose["services"][service]["environment"]
    known = {f"RETRIEVER__{name.upper()}" for name in Settings.model_fields}
    assert set(environment) <= known
    settings = settings_from(environment, monkeypatch)
    assert settings.host == "0.0.0.0"
    assert settings.api_key_sha256 is not None
    assert settings.device == ("cuda" if service == "retriever-gpu" else None)


def test_the_container_stops_after_the_service_has_drained(compose, monkeypatch):
    service = compose["services"]["retriever"]
    settings = settings_from(service["environment"], monkeypatch)
    assert int(service["stop_grace_period"].rstrip("s")) > settings.drain_seconds + settings.shutdown_seconds


def test_a_cpu_service_by_default_and_the_gpu_on_request(compose):
    services = compose["services"]
    assert "profiles" not in services["retriever"]
    assert services["retriever-gpu"]["profiles"] == ["gpu"]
    assert set(services) == {"retriever", "retriever-gpu", "prometheus", "grafana"}


def test_ports_are_published_on_the_loopback_only(compose, monkeypatch):
    for name, service in compose["services"].items():
        for port in service["ports"]:
            assert port.startswith("127.0.0.1:"), name
    settings = settings_from(compose["services"]["retriever"]["environment"], monkeypatch)
    assert compose["services"]["retriever"]["ports"] == [f"127.0.0.1:8080:{settings.port}"]


def test_nothing_is_privileged_or_writable_without_need(compose):
    for name in ("retriever", "retriever-gpu"):
        service = compose["services"][name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert any(volume.endswith(":/index:ro") for volume in service["volumes"])
    assert "USER retriever" in (ROOT / "Dockerfile").read_text()


def test_prometheus_reads_the_services(compose):
    mounted = compose["services"]["prometheus"]["volumes"][0].split(":")[0]
    config = yaml.safe_load((ROOT / mounted).read_text())
    (job,) = config["scrape_configs"]
    hosts = {target.split(":")[0] for target in job["static_configs"][0]["targets"]}
    assert hosts <= set(compose["services"])
    assert job["metrics_path"] == "/metrics"
    # Where a key is set, /metrics asks for it.
    (secret,) = compose["services"]["prometheus"]["secrets"]
    assert job["authorization"]["credentials_file"] == f"/run/secrets/{secret}"
    assert secret in compose["secrets"]


def test_what_is_mounted_is_there(compose):
    for name, service in compose["services"].items():
        for volume in service.get("volumes", []):
            if volume.startswith("./"):
                assert (ROOT / volume.split(":")[0]).is_file(), name


def test_the_image_holds_what_it_copies():
    for line in (ROOT / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY ") and "--from" not in line:
            for name in line.split()[1:-1]:
                assert (ROOT / name).exists(), name
                assert f"!{name}" in (ROOT / ".dockerignore").read_text().splitlines(), name
