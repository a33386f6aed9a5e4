"""The receivers of docs/webhooks.md, in every language that is installed here: each takes a signed event and refuses
an altered one, an old one and one without a signature."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from standardwebhooks import Webhook

ROOT = Path(__file__).resolve().parents[2]
SECRET = "whsec_QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVoxMjM0NTY="
BODY = '{"type":"job.succeeded","timestamp":"2025-01-01T00:00:00Z","data":{"id":"job_1","note":"\u00e4 \U0001f600"}}'


def example(language: str) -> str:
    page = (ROOT / "docs" / "webhooks.md").read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)[0]


def signed(body: str = BODY, age: timedelta = timedelta()) -> dict[str, str]:
    at = datetime.now(UTC) - age
    signature = Webhook(SECRET).sign("whd_1", at, body)
    return {
        "webhook-id": "whd_1",
        "webhook-timestamp": str(int(at.timestamp())),
        # As while a secret is exchanged: one signature that is not for us comes first
        "webhook-signature": f"v1,AAAA {signature}",
    }


def deliveries() -> list[dict[str, object]]:
    """Each with the answer that a receiver must give."""
    good = signed()
    unsigned = {name: value for name, value in good.items() if name != "webhook-signature"}
    return [
        {"body": BODY, "headers": good, "ours": True},
        {"body": BODY.replace("job_1", "job_2"), "headers": good, "ours": False},
        {"body": BODY, "headers": good | {"webhook-id": "whd_2"}, "ours": False},
        {"body": BODY, "headers": good | {"webhook-timestamp": "soon"}, "ours": False},
        {"body": BODY, "headers": signed(age=timedelta(minutes=10)), "ours": False},
        {"body": BODY, "headers": signed(age=timedelta(minutes=-10)), "ours": False},
        {"body": BODY, "headers": unsigned, "ours": False},
        {"body": BODY, "headers": {}, "ours": False},
    ]


def answers_of(command: list[str], folder: Path, sent: list[dict[str, object]]) -> list[bool]:
    done = subprocess.run(
        command, cwd=folder, input=json.dumps(sent), capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def wanted(sent: list[dict[str, object]]) -> list[object]:
    return [delivery["ours"] for delivery in sent]


def test_javascript(tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed here: the JavaScript of docs/webhooks.md was not run")
    (tmp_path / "hook.mjs").write_text(example("javascript"))
    (tmp_path / "main.mjs").write_text(
        'import { readFileSync } from "node:fs";\nimport { readEvent } from "./hook.mjs";\n'
        f'const sent = JSON.parse(readFileSync(0, "utf8"));\nconst secret = "{SECRET}";\n'
        "console.log(JSON.stringify(sent.map((d) => readEvent(secret, d.body, d.headers)?.data?.note === 'ä 😀')));\n"
    )
    sent = deliveries()
    assert answers_of([node, "main.mjs"], tmp_path, sent) == wanted(sent)


def test_go(tmp_path: Path) -> None:
    go = shutil.which("go")
    if go is None:
        pytest.skip("go is not installed here: the Go of docs/webhooks.md was not run")
    (tmp_path / "go.mod").write_text("module example\n\ngo 1.19\n")
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "hook.go").write_text(example("go"))
    (tmp_path / "main.go").write_text(
        'package main\n\nimport (\n"encoding/json"\n"example/hook"\n"net/http"\n"os"\n)\n\n'
        "type delivery struct{ Body string; Headers map[string]string }\n\n"
        "func main() {\nvar sent []delivery\n"
        "if err := json.NewDecoder(os.Stdin).Decode(&sent); err != nil { panic(err) }\n"
        "answers := []bool{}\nfor _, d := range sent {\nheaders := http.Header{}\n"
        "for name, value := range d.Headers { headers.Set(name, value) }\n"
        f'answers = append(answers, hook.Verify("{SECRET}", []byte(d.Body), headers) == nil)\n}}\n'
        "json.NewEncoder(os.Stdout).Encode(answers)\n}\n"
    )
    sent = deliveries()
    assert answers_of([go, "run", "."], tmp_path, sent) == wanted(sent)
