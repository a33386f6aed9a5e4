"""Verification of webhook signatures (Standard Webhooks)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from standardwebhooks import Webhook, WebhookVerificationError
from standardwebhooks.webhooks import EmptyWebhookSecretError

from retalking_client.errors import WebhookInvalidError
from retalking_client.models import WebhookEvent


def verify_webhook(body: bytes | str, headers: Mapping[str, str], secret: str | Sequence[str]) -> WebhookEvent:
    """The event. body: as it was received, before any JSON parser touched it. headers: names in any case. secret:
    `whsec_...`, as `Client.webhook_secret` gives it for your account, or RETALKING_WEBHOOK_SECRET of a service without
    keys; several while it is rotated: one that fits is enough.

    Raises WebhookInvalidError: wrong signature, changed body, or a timestamp more than five minutes off; ValueError for
    a secret that is none. The same event may arrive twice: remember the header `webhook-id`.
    """
    checkers = [_checker(each) for each in ([secret] if isinstance(secret, str) else secret)]
    if not checkers:
        raise ValueError("pass at least one webhook secret")
    try:
        text = body.decode() if isinstance(body, bytes) else body
        _verify(checkers, text, {name.lower(): value for name, value in headers.items()})
        return WebhookEvent.model_validate_json(text)
    except WebhookVerificationError as error:
        raise WebhookInvalidError(f"The webhook was not sent by the service: {error}.") from error
    except ValueError as error:  # headers that are no signature, bytes that are no text, a body that is no event
        raise WebhookInvalidError("The webhook is no signed event of this service.") from error


def _verify(checkers: Sequence[Webhook], text: str, headers: dict[str, str]) -> None:
    """Raises what the last of them raised when none accepts."""
    for checker in checkers[:-1]:
        try:
            checker.verify(text, headers)
        except (WebhookVerificationError, ValueError):
            continue
        return
    checkers[-1].verify(text, headers)


def _checker(secret: str) -> Webhook:
    try:
        return Webhook(secret)
    except (ValueError, EmptyWebhookSecretError) as error:
        raise ValueError("the webhook secret is `whsec_` and base64 text") from error
