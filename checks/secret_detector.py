"""The forms of this service's own secrets, as a plugin of detect-secrets."""

from __future__ import annotations

import re

from detect_secrets.plugins.base import RegexBasedDetector


class RetalkingSecretDetector(RegexBasedDetector):
    """API keys, and signing secrets of webhooks."""

    secret_type = "Retalking secret"
    denylist = (
        re.compile(r"rtk_[0-9a-f]{16}_[0-9a-f]{64}"),
        re.compile(r"whsec_[A-Za-z0-9+/]{32,88}={0,2}"),
    )
