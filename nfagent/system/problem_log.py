"""Logs a lasting problem once when it begins, and once when it is over."""

from __future__ import annotations

import logging


def log_problem(log: logging.Logger, before: str, now: str, note: str = "") -> str:
    """Log a problem that differs from the one before, or that the one before is over; return the one of now.

    before, now: '' for no problem
    note:        what follows a problem in its line, such as '; retrying'
    """
    if now and now != before:
        log.warning("%s%s", now, note)
    elif before and not now:
        log.info("resolved: %s", before)
    return now
