"""The Flask extensions, unbound: Flask-SQLAlchemy over our own declarative Base, and Flask-Migrate."""

from __future__ import annotations

from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy

from app.models import Base

db = SQLAlchemy(model_class=Base)
migrate = Migrate(db=db, compare_type=True, render_as_batch=True)
