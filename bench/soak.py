"""Does any fault break a promise? `python -m bench.soak [--json FILE]` prints a table; about 30 minutes on two cores.

Real parts: Redis, an S3 endpoint, the API, two render workers, a webhook worker with its janitor, receivers that verify
every signature with the secret of its key. Well-behaved callers with several API keys submit `--jobs` jobs over
`--minutes`, cancel and delete some of them, and compare every result. One process after the other is killed and
restarted. Further keys send every hostile submission that `bench/soak_hostile.py` lists. At the end
`bench/soak_verdict.py` checks the promises of docs/reliability.md for every accepted job, and memory, queues, refusals
and failed calls; the exit status is 1 after any violation.

With `--objects folder` files lie in a local folder, and callers put them to upload links of the API instead of the
bucket. Loopback only. `--jobs 60 --clients 10 --minutes 0.5` is a run of about four minutes.
`python -m bench.soak --markdown FILE` prints the table of docs/reliability.md from the figures of a run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import signal
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.load import percentiles, print_table
from bench.soak_callers import JOB_LIMIT_S, SUBMIT_LIMIT_S, Caller, FileHost, Ledger
from bench.soak_hostile import (
    LATE_PUT,
    HostileCaller,
    HostileHost,
    Rotation,
    Trap,
    covered_speech,
    hostile_set,
    huge_video,
)
from bench.soak_service import Killer, SoakedService, Watch
from bench.soak_verdict import (
    check_deletion,
    check_leftovers,
    check_promises,
    check_upkeep,
    drain,
    judge_failures,
    judge_memory,
    judge_queues,
    judge_refusals,
    kinds_of_keys,
    requeue_delays_s,
    webhook_delays_s,
)
from tests.services import start_s3

KEYS = 5
HOSTILE_CALLERS = 6
HOSTILE_PAUSE_S = 2.0


def soak(folder: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """The whole run. Returns the figures; `violations` is empty where every promise was kept."""
    chance = random.Random(asked.seed)
    for make in (hostile_set, huge_video, covered_speech):
        make()  # before anything runs: it takes seconds of the processor
    with ExitStack() as stack:
        rclone = start_s3(folder) if asked.objects == "s3" else None
        if rclone:
            stack.callback(rclone.stop)
        service = SoakedService(folder / "service", rclone, KEYS)
        stack.callback(service.stop)
        files = FileHost({"face.mp4": service.video, "speech.wav": service.audio})
        stack.callback(files.stop)
        trap = Trap()
        stack.callback(trap.stop)
        host = HostileHost(trap)
        stack.callback(host.stop)
        service.start()
        say("the service is ready")
        ledger = Ledger()
        figures = _run(service, files, host, ledger, chance, asked)
        if trap.visits:
            ledger.violate("a redirect led to a forbidden address", f"{trap.visits} connections")
        return figures | {"violations": ledger.report()}


def _run(
    service: SoakedService,
    files: FileHost,
    host: HostileHost,
    ledger: Ledger,
    chance: random.Random,
    asked: argparse.Namespace,
) -> dict[str, Any]:
    before = kinds_of_keys(service)
    watch = Watch(service)
    killer = Killer(service, asked.kill_every, 60 * asked.minutes / 2, chance)
    hostile = _start_hostile(service, host, ledger, chance)
    rotation = threading.Timer(60 * asked.minutes / 2, service.rotate_secret, (service.keys[0],))
    rotation.start()
    watch.start()
    killer.start()
    began = time.monotonic()
    _submit_all(service, files, ledger, asked)
    submitted_s = time.monotonic() - began
    say(f"{len(ledger.accepted)} jobs accepted; the last kill is mended")
    killer.stop()
    for caller in hostile:
        caller.over.set()
    watch.stop()
    service.mend()
    say("waiting for the jobs that are not over")
    drain(service, ledger)
    say("checking every job")
    ends = check_promises(service, ledger)
    say("waiting until nothing is left in the bucket")
    check_leftovers(service, ledger)
    check_upkeep(service, ledger, killer.kills)
    latency = {
        "submit ms": ledger.submit_s,
        "submit to end seen ms": ledger.done_s,
        "end to webhook ms": webhook_delays_s(service, ledger),
        "child killed to job queued again ms": requeue_delays_s(service, killer.kills),
    }
    limited = judge_refusals(service, ledger)
    memory, queues = judge_memory(watch, ledger), judge_queues(watch, ledger)
    say("deleting every job")
    deletion = check_deletion(service, ledger, before)
    for failure in killer.failures:
        ledger.violate(failure)
    explained = judge_failures(killer.kills, ledger)
    (service.folder / "samples.json").write_text(json.dumps({"memory": watch.memory, "queues": watch.queues}))
    return {
        "jobs": {
            "clients": asked.clients,
            "seconds": round(submitted_s),
            "accepted": sum(not each.is_hostile for each in ledger.accepted),
            "uploads": ledger.uploads,
            "hostile answers": sum(sum(answers.values()) for answers in ledger.answers.values()),
            "hostile jobs": sum(each.is_hostile for each in ledger.accepted),
            "refused at a quota that was reached": limited,
            "processes killed": len(killer.kills),
            "calls that a kill broke": explained,
        },
        "ends": dict(sorted(ends.items())),
        "latency": {name: percentiles(seconds) for name, seconds in latency.items() if len(seconds) > 1},
        "memory": memory,
        "queues": queues,
        "after deletion": deletion,
        "hostile": {name: dict(answers) for name, answers in sorted(ledger.answers.items())},
    }


def say(message: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {message}", file=sys.stderr, flush=True)


def _start_hostile(
    service: SoakedService, host: HostileHost, ledger: Ledger, chance: random.Random
) -> list[HostileCaller]:
    rotation = Rotation(chance)
    callers = [HostileCaller(service, host, ledger, chance.getrandbits(32)) for _ in range(HOSTILE_CALLERS + 1)]
    for caller in callers[1:]:
        threading.Thread(target=caller.run, args=(rotation, HOSTILE_PAUSE_S), daemon=True).start()
    threading.Thread(target=callers[0].serve, args=(LATE_PUT,), daemon=True).start()
    return callers


def _submit_all(service: SoakedService, files: FileHost, ledger: Ledger, asked: argparse.Namespace) -> None:
    """Bounded: a caller that is not done long after it should be is left behind, and named."""
    counts = [asked.jobs // asked.clients + (number < asked.jobs % asked.clients) for number in range(asked.clients)]
    callers = [
        Caller(service, files, ledger, service.keys[number % KEYS], count, 60 * asked.minutes / max(1, count), seed)
        for number, (count, seed) in enumerate(zip(counts, range(asked.seed, asked.seed + asked.clients), strict=True))
    ]
    for caller in callers:
        caller.thread.start()
    deadline = time.monotonic() + 60 * asked.minutes * 2 + JOB_LIMIT_S + SUBMIT_LIMIT_S
    for caller in callers:
        caller.thread.join(max(0.0, deadline - time.monotonic()))
        if caller.thread.is_alive():
            ledger.violate("a caller was not done in twice the time", caller.thread.name)


def print_report(figures: dict[str, Any]) -> None:
    for name, rows in figures.items():
        if name != "violations":
            print_table(name, rows)
    print(f"\nviolations: {sum(row['times'] for row in figures['violations'])}")
    for row in figures["violations"]:
        print(f"  {row['times']:5} x {row['violation']}")
        for example in filter(None, row["examples"][:2]):
            print(f"          {example[:300]}")


def markdown(figures: dict[str, Any]) -> str:
    """The table of docs/reliability.md."""
    rows = [(name, str(value)) for name, value in figures["jobs"].items()]
    rows += [(f"ended: {name}", str(count)) for name, count in figures["ends"].items()]
    for table in ("latency", "memory", "queues", "after deletion"):
        for name, values in figures[table].items():
            rows.append((name, ", ".join(f"{label} {value}" for label, value in values.items())))
    rows.append(("violations", str(sum(row["times"] for row in figures["violations"]))))
    return "\n".join(["| what | figure |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=2000)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--minutes", type=float, default=15.0, help="over which the submissions are spread")
    parser.add_argument("--kill-every", type=float, default=20.0, help="seconds")
    parser.add_argument("--objects", choices=["s3", "folder"], default="s3")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="folder for the data and logs of the run, which is left there")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="print the table of an earlier run's --json")
    asked = parser.parse_args()
    if asked.markdown:
        print(markdown(json.loads(asked.markdown.read_text())))
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no process of the service is left behind
    machine = {"cores": os.cpu_count(), "python": platform.python_version(), "load_before": os.getloadavg()[0]}
    if asked.keep is not None:
        asked.keep.mkdir(parents=True)
        figures = soak(asked.keep, asked)
    else:
        with tempfile.TemporaryDirectory(prefix="retalking-soak-") as folder:
            figures = soak(Path(folder), asked)
    figures = {"machine": machine | {"seed": asked.seed, "objects": asked.objects}} | figures
    print_report(figures)
    if asked.json:
        asked.json.write_text(json.dumps(figures, indent=2) + "\n")
    sys.exit(1 if figures["violations"] else 0)


if __name__ == "__main__":
    main()
