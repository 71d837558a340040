"""What a provider is, which providers exist, and how one of them makes a picture of one photo.

Owns the adapter interface (`base`), the list of providers (`registry`), the rules for retries, deadline and error
classes of all providers (`attempts`), their accounts and calls (`models`), rate limits and the circuit breaker
(`limits`), models and prices as data (`catalogue`), and form and JSON Schema of an operation's settings
(`declaration`). Each provider is a module of its own beside these. May import `core` and nothing else.
"""
