"""Checking that a webhook was sent by the service (Standard Webhooks), before anything in it is believed."""

from __future__ import annotations

from collections.abc import Mapping

from standardwebhooks import Webhook, WebhookVerificationError
from standardwebhooks.webhooks import EmptyWebhookSecretError

from retalking_client.errors import WebhookInvalidError
from retalking_client.models import WebhookEvent


def verify_webhook(body: bytes | str, headers: Mapping[str, str], secret: str) -> WebhookEvent:
    """The event. body: as it was received, before any JSON parser touched it. headers: names in any case. secret:
    `whsec_...`, the service's RETALKING_WEBHOOK_SECRET.

    Raises WebhookInvalidError: wrong signature, changed body, or a timestamp more than five minutes off; ValueError for
    a secret that is none. The same event may arrive twice: remember the header `webhook-id`.
    """
    checker = _checker(secret)
    try:
        text = body.decode() if isinstance(body, bytes) else body
        checker.verify(text, {name.lower(): value for name, value in headers.items()})
        return WebhookEvent.model_validate_json(text)
    except WebhookVerificationError as error:
        raise WebhookInvalidError(f"The webhook was not sent by the service: {error}.") from error
    except ValueError as error:  # headers that are no signature, bytes that are no text, a body that is no event
        raise WebhookInvalidError("The webhook is no signed event of this service.") from error


def _checker(secret: str) -> Webhook:
    try:
        return Webhook(secret)
    except (ValueError, EmptyWebhookSecretError) as error:
        raise ValueError("the webhook secret is `whsec_` and base64 text") from error
