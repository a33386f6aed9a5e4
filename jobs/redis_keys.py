"""API keys, and what each may still spend: requests a minute."""

from __future__ import annotations

from datetime import UTC, datetime

from jobs.api_keys import ApiKey
from jobs.redis_quarantine import Quarantine
from jobs.redis_records import stored_json
from jobs.store import Allowance, KeyNotFoundError


class KeyRing(Quarantine):
    def add_key(self, key: ApiKey) -> None:
        with self._client.pipeline() as pipe:
            pipe.set(self._key("api_key", key.id), stored_json(key))
            pipe.zadd(self._key("api_keys"), {key.id: int(key.created_at.timestamp() * 1000)})
            pipe.execute()

    def find_key(self, key_id: str) -> ApiKey | None:
        """Also a revoked one: the caller looks at `revoked_at`. One whose record can not be read opens nothing."""
        return self._read_record("api_key", key_id, ApiKey)

    def list_keys(self) -> list[ApiKey]:
        """Oldest first, revoked ones too."""
        ids = self._client.zrange(self._key("api_keys"), 0, -1)
        return self._read_records("api_key", ids, ApiKey)

    def revoke_key(self, key_id: str) -> ApiKey:
        """Holds from the next request on. The record stays, so that the owner of old jobs has a name."""
        key = self.find_key(key_id)
        if key is None:
            raise KeyNotFoundError(f"There is no key {key_id}")
        if key.revoked_at is None:
            key = key.model_copy(update={"revoked_at": datetime.now(UTC)})
            self._client.set(self._key("api_key", key_id), stored_json(key))
        return key

    def spend(self, key_id: str, per_minute: int) -> Allowance:
        allowed, left, retry_ms, full_ms = self._call("spend", key_id, per_minute)
        return Allowance(allowed == 1, int(left), retry_in_s=int(retry_ms) / 1000, full_in_s=int(full_ms) / 1000)

    def live_jobs(self, owner: str) -> int:
        return self._client.scard(self._key("live", owner))
