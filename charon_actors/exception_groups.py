"""Nurseries wrap every error in groups; whoever decides about errors wants the errors themselves."""

from collections.abc import Iterator


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors inside nested groups, depth first, in their order; an error that is no group is its own leaf."""
    waiting = [error]
    while waiting:
        first = waiting.pop()
        if isinstance(first, BaseExceptionGroup):
            waiting.extend(reversed(first.exceptions))
        else:
            yield first
