"""Offers are remembered for a second, in which they may let a request through and never refuse one."""

from __future__ import annotations

from app.recent_offers import LASTS_SECONDS, RecentOffers
from app.routing import ProviderOffer

OFFERS = {"local": ProviderOffer()}


def test_offers_are_kept_for_a_while() -> None:
    now = 100.0
    recent = RecentOffers(lambda: now)
    assert recent.get() is None
    recent.set(OFFERS)
    now += LASTS_SECONDS - 0.01
    assert recent.get() == OFFERS
    now += 0.01
    assert recent.get() is None
