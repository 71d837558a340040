"""What a provider is, which ones there are, and how one photo is tried on one.

Owns the adapter interface (`base`), the list of providers (`registry`), and the rules of retry, deadline and error
class that hold for all of them (`attempts`). Each provider is a module of its own beside these.
May know the kernel of `photoslot` (`errors`, `images`) and nothing else.
"""
