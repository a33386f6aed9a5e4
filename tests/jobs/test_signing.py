"""Generated secrets, and ids."""

from __future__ import annotations

import base64
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from standardwebhooks import Webhook

from jobs import names as ids
from jobs.settings import Settings
from jobs.signing import SecretInvalidError, link_secret, webhook_secret


def settings_of(data_dir: Path, **values: str) -> Settings:
    return Settings(_env_file=None, data_dir=data_dir, **values)


def test_secrets_are_generated_once_and_readable_by_the_owner_alone(tmp_path: Path) -> None:
    settings = settings_of(tmp_path / "new" / "data")
    link, hook = link_secret(settings), webhook_secret(settings)
    assert (link_secret(settings), webhook_secret(settings)) == (link, hook)
    assert link_secret(settings_of(tmp_path / "other")) != link
    assert len(link) == 64
    Webhook(hook)
    folder = tmp_path / "new" / "data" / "secrets"
    assert sorted(path.name for path in folder.iterdir()) == ["link_secret", "webhook_secret"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_concurrent_processes_get_the_same_secret(tmp_path: Path) -> None:
    for i in range(20):
        settings = settings_of(tmp_path / str(i))
        with ThreadPoolExecutor(8) as pool:
            assert len(set(pool.map(lambda _, s=settings: link_secret(s), range(8)))) == 1


def test_secrets_from_the_settings_take_precedence(tmp_path: Path) -> None:
    hook = "whsec_" + base64.b64encode(bytes(range(32))).decode()
    settings = settings_of(tmp_path, link_secret="a-link-secret-of-ours", webhook_secret=hook)
    assert link_secret(settings) == b"a-link-secret-of-ours"
    assert webhook_secret(settings) == hook
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("secret", ["whsec_", "whsec_AAAA", "plain", "whsec_***", base64.b64encode(b"x" * 32).decode()])
def test_invalid_secrets_are_reported_without_their_content(tmp_path: Path, secret: str) -> None:
    with pytest.raises(SecretInvalidError, match="RETALKING_WEBHOOK_SECRET") as refused:
        webhook_secret(settings_of(tmp_path, webhook_secret=secret))
    assert secret == "whsec_" or secret not in str(refused.value)
    with pytest.raises(SecretInvalidError, match="RETALKING_LINK_SECRET"):
        link_secret(settings_of(tmp_path, link_secret="short"))


def test_an_empty_secret_file_is_reported(tmp_path: Path) -> None:
    link_secret(settings_of(tmp_path))
    (tmp_path / "secrets" / "link_secret").write_text("")
    with pytest.raises(SecretInvalidError, match="empty"):
        link_secret(settings_of(tmp_path))


def test_kinds_of_ids_are_distinguished() -> None:
    made = [ids.new_job_id(), ids.new_upload_id(), ids.new_delivery_id()]
    checks = [ids.is_job_id, ids.is_upload_id, ids.is_delivery_id]
    assert [[check(text) for check in checks] for text in made] == [
        [True, False, False],
        [False, True, False],
        [False, False, True],
    ]
    for wrong in ("", "job_", made[0] + "\n", made[0].upper(), made[0][:-1], made[0] + "0", "job_" + "g" * 32):
        assert not ids.is_job_id(wrong)
    assert len({ids.new_job_id() for _ in range(1000)}) == 1000
