"""What a person would write into .env: fresh secrets in every place that .env.example leaves empty for one."""

from __future__ import annotations

import base64
import secrets


def make_variables() -> dict[str, str]:
    """The webhook receiver of the trial listens on loopback, so that address is allowed."""
    return {
        "REDIS_PASSWORD": secrets.token_hex(32),
        "S3_ACCESS_KEY_ID": secrets.token_hex(10),
        "S3_SECRET_ACCESS_KEY": secrets.token_hex(20),
        "RETALKING_LINK_SECRET": secrets.token_hex(32),
        "RETALKING_WEBHOOK_SECRET": "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode(),
        "RETALKING_ALLOW_PRIVATE_HOSTS": "127.0.0.1",
    }
