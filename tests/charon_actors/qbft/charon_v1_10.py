"""The machine as Charon v1.10 has it, for its vectors."""

from charon_actors.qbft.machine import Decide, Instance, Message


class CharonV110(Instance):
    """Answers ROUND_CHANGEs without limit, PREPAREs twice for a leader that proposes twice, prepares the zero value, and answers laggards
    with the value of the first COMMIT it has kept."""

    def _note_proposal(self, round_: int) -> None:
        pass

    def _may_answer(self, message: Message) -> bool:
        return True

    def _value_for_laggards(self, decided: Decide) -> bytes:
        return decided.commits[0].value

    def _may_be_proposed(self, value: bytes) -> bool:
        return True


def machine_class(hardened: bool) -> type[Instance]:
    return Instance if hardened else CharonV110
