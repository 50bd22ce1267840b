"""Sigstore bundles, verified offline and strictly: who built something, and in which public log that was noted.

``policy`` and ``strict_json`` are light. Everything else imports the ``sigstore`` package and is imported only
by whoever has a bundle to check: a client whose policy asks for no Sigstore bundle never pays for it.
"""
