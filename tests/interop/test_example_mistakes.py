"""Mistakes in the examples' files: `relay check` names the key, and prints no secret."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.interop.processes import ROOT

SECRET = "s3cret-of-the-test"
ENVIRONMENT = {
    "LISTEN": "127.0.0.1:0",
    "APP_ORIGIN": "https://app.example",
    "BACKEND_TOKEN": SECRET,
    "BROKER_API_KEY": SECRET,
    **{
        f"{name}_URL": "http://127.0.0.1:9000"
        for name in ("BACKEND", "BROKER", "ENGINE", "PIPELINE")
    },
}
EXAMPLES = sorted(path.parent.name for path in (ROOT / "examples").glob("*/relay.toml"))


def check(path: Path, without: str = "") -> subprocess.CompletedProcess[str]:
    env = {"PATH": os.environ["PATH"], **ENVIRONMENT}
    env.pop(without, None)
    command = [sys.executable, "-m", "relay", "check", str(path)]
    result = subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=30, check=False
    )
    assert SECRET not in result.stdout + result.stderr
    return result


@pytest.mark.parametrize("example", EXAMPLES)
def test_each_example_is_right(example: str) -> None:
    result = check(ROOT / "examples" / example / "relay.toml")
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("example", "right", "wrong", "key"),
    [
        ("message-broker", '{reply.message_id}"\nnot', '{replay.message_id}"\nnot', "follow.path"),
        ("message-broker", '"/api/v1/message"', '"/api/v1/{path.room}"', "enqueue.path"),
        ("message-broker", '"body.user_id"', '"body.[user"', "enqueue.order_by"),
        ("message-broker", 'translate = "broker"', 'translate = "brocker"', "follow.translate"),
        ("message-broker", 'translate = "broker"', 'translate = "nowhere:f"', "follow.translate"),
        (
            "message-broker",
            'data = { type = "progress" }',
            "carry = false",
            "translations.broker.processing",
        ),
        ("message-broker", "data = { type", "date = { type", "translations.broker.queued.date"),
        ("ask", 'text = "response"', 'text = "response["', "answer.text"),
        ("ask", '"sources" }', '"[sources" }', "answer.metadata.sources"),
        ("ask", "chunk_chars = 100", "chunk_chars = 0", "answer.chunk_chars"),
        ("ask", 'fallback = "fallback"', 'fallback = "fallbak"', "answer.fallback"),
        (
            "workload-logs",
            '"/v1/workloads/{id}/logs"',
            '"/v1/workloads/{ib}/logs"',
            "upstream_path",
        ),
        ("resumable-chat", '"{cookie.session}"', '"{query.session}"', "resume.principal"),
        ("resumable-chat", "/chat/{key}/stream", "/chat/{id}/stream", "resume.at"),
        ("shared-logs", 'key = "{id}"', 'key = "{di}"', "resume.key"),
        ("shared-logs", '"GET"]', '"POST"]', "resume.reconnect"),
    ],
)
def test_a_mistake_is_named_by_its_key(
    example: str, right: str, wrong: str, key: str, tmp_path: Path
) -> None:
    text = (ROOT / "examples" / example / "relay.toml").read_text()
    assert right in text
    (tmp_path / "relay.toml").write_text(text.replace(right, wrong, 1))
    result = check(tmp_path / "relay.toml")
    assert result.returncode == 2
    assert key in result.stderr, result.stderr


@pytest.mark.parametrize(
    ("example", "name"),
    [
        ("event-gateway", "BACKEND_TOKEN"),
        ("message-broker", "BROKER_API_KEY"),
        ("ask", "PIPELINE_URL"),
        ("query-stream", "LISTEN"),
    ],
)
def test_a_missing_variable_is_named(example: str, name: str) -> None:
    result = check(ROOT / "examples" / example / "relay.toml", without=name)
    assert result.returncode == 2
    assert name in result.stderr


def test_the_file_before_the_models_is_right(tmp_path: Path) -> None:
    """The first file of the how-to, which its own commands do not run: they have a stand-in for the models."""
    page = (ROOT / "docs" / "how-to" / "openai-anthropic-vllm.md").read_text("utf-8")
    text = page.partition("```toml\n")[2].partition("```")[0]
    (tmp_path / "relay.toml").write_text(text)
    keys = {"OPENAI_API_KEY": SECRET, "ANTHROPIC_API_KEY": SECRET}
    command = [sys.executable, "-m", "relay", "check", str(tmp_path / "relay.toml")]
    result = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **keys},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert SECRET not in result.stdout + result.stderr
