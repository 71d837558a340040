"""What a provider is, which ones there are, and how one photo is tried on one.

Owns the adapter interface (`base`), the list of providers (`registry`), the rules of retry, deadline and error class
that hold for all of them (`attempts`), their accounts and calls (`models`), what an account allows (`limits`), models
and prices as data (`catalogue`), and what is drawn from an operation's settings (`declaration`). Each provider is a
module of its own beside these.
May know the kernel of `photoslot` and nothing else.
"""
