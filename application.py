"""The web application: `python application.py` serves it, `flask --app application …` works on it."""

from __future__ import annotations

from app.factory import create_app
from config import Settings

app = create_app(Settings.load())
