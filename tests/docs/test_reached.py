"""Nothing stands in the product that only tests reach.

A declaration is a class, function, method, constant of a module, or field of a class. It is reached when its name is used by what a
module does when it is imported, or by the body of another declaration that is reached; who imports it, or lists it in a face, has not
used it yet. Names are all that is compared, so a method is reached when any method of that name is. What is left has its reason below.
"""

import ast
from collections import defaultdict
from collections.abc import Collection, Iterator
from typing import NamedTuple

from tests.docs.product import MODULES, PACKAGES, tree_of

EMBEDDER = "for programs that embed a node or an actor (docs/embedding.md, docs/runtime.md)"
DUTIES = "roadmap 1: the remaining duties"
EXITS = "roadmap 1: exits"
OVERRIDES = "roadmap 1: builder registrations"
DCUTR = "roadmap 2: DCUtR"
RELAY_SERVER = "roadmap 2: relay server"
ORACLE = "the other direction of what the node does, which the tests hold it to; other nodes do it"
INTERCHANGE = "for whoever embeds the slashing guard: export and import of its record"
BY_NAME = "a field that SSZ or JSON finds by its name"

EXCEPTIONS = {
    "charon_actors.cluster.registration.encode_overrides": OVERRIDES,
    "charon_actors.cluster.verify.verify_definition": EMBEDDER,
    "charon_actors.crypto.threshold.recover_public_key": ORACLE,
    "charon_actors.crypto.threshold.split_secret": ORACLE,
    "charon_actors.eth2.aggregation.is_aggregator": DUTIES,
    "charon_actors.eth2.aggregation.is_sync_committee_aggregator": DUTIES,
    "charon_actors.eth2.containers.blinded_beacon_block": ORACLE,
    "charon_actors.eth2.preset.GNOSIS": ORACLE,
    "charon_actors.eth2.preset.MINIMAL": ORACLE,
    "charon_actors.eth2.proposal.proposal_to_wire_json": ORACLE,
    "charon_actors.eth2.signed.ingredients.SyncCommitteeSelection.subcommittee_index": BY_NAME,
    "charon_actors.eth2.signed.validator.SignedVoluntaryExit.encode_ssz": EXITS,
    "charon_actors.eth2.signed_data.encode_signed_data_json": ORACLE,
    "charon_actors.eth2.unsigned_data.AttesterDefinition.committee_length": BY_NAME,
    "charon_actors.eth2.unsigned_data.AttesterDefinition.committees_at_slot": BY_NAME,
    "charon_actors.eth2.unsigned_data.SyncCommitteeContribution.subcommittee_index": BY_NAME,
    "charon_actors.eth2.unsigned_data.decode_unsigned": ORACLE,
    "charon_actors.eth2.unsigned_data.encode_unsigned_json": ORACLE,
    "charon_actors.p2p.envelope.encode_voucher": RELAY_SERVER,
    "charon_actors.p2p.identify.HostIdentify.has_signed_record": ORACLE,
    "charon_actors.p2p.peer_id.public_key_of": RELAY_SERVER,
    "charon_actors.p2p.relay_messages.CircuitLimit.data_bytes": RELAY_SERVER,
    "charon_actors.p2p.relay_messages.DCUTR": DCUTR,
    "charon_actors.p2p.relay_messages.HolePunch.is_sync": DCUTR,
    "charon_actors.p2p.relay_messages.decode_hole_punch": DCUTR,
    "charon_actors.p2p.relay_messages.encode_hole_punch": DCUTR,
    "charon_actors.slashing.interchange.decode_interchange": INTERCHANGE,
    "charon_actors.slashing.interchange.encode_interchange": INTERCHANGE,
    "actors.beacon.messages.SyncDefinition": DUTIES,
    "actors.mailbox.Statistics.delivered": EMBEDDER,
    "actors.mailbox.open_actor": EMBEDDER,
    "actors.mesh.carriage.Carriage.stream_count": EMBEDDER,
    "actors.mesh.messages.ConnectionStatus.is_relayed": EMBEDDER,
    "actors.mesh.messages.PeerStatus.dial_failures": EMBEDDER,
    "actors.metrics.Metrics.render": EMBEDDER,
    "supervisors.node_files.config_from": EMBEDDER,
    "supervisors.supervisor.Started.incarnation": EMBEDDER,
    "supervisors.supervisor.draw": EMBEDDER,
}

OWN_BASES = {"msgspec", "enum", "typing", "abc"}  # nobody but us calls the methods of a class with one of these as its base


class Declaration(NamedTuple):
    place: str
    name: str
    uses: frozenset[str]
    owner: str  # the class that it stands in
    is_for_library: bool = False  # a method of a class with a base from a library, which may call it


def names_in(node: ast.AST) -> set[str]:
    """Everything that is read: variables, attributes, fields in patterns, names as texts of annotations."""
    found: set[str] = set()
    for part in ast.walk(node):
        match part:
            case ast.Name(name, ast.Load()) | ast.Attribute(attr=name, ctx=ast.Load()):
                found.add(name)
            case ast.MatchClass(kwd_attrs=names):
                found |= set(names)
                found |= positional_fields(part)
            case ast.Call(ast.Name("getattr" | "hasattr"), [_, ast.Constant(str(name)), *_]):
                found.add(name)
    return found


def fields_of() -> dict[str, list[str]]:
    """Fields of each class, in the order of their positions in a pattern."""
    return {
        node.name: [each.target.id for each in node.body if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)]
        for path in MODULES.values()
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ClassDef)
    }


FIELDS = fields_of()


def positional_fields(pattern: ast.MatchClass) -> set[str]:
    name = pattern.cls.attr if isinstance(pattern.cls, ast.Attribute) else getattr(pattern.cls, "id", "")
    bound = zip(FIELDS.get(name, []), pattern.patterns, strict=False)
    return {field for field, part in bound if not (isinstance(part, ast.MatchAs) and part.name is None and part.pattern is None)}


def declarations() -> tuple[list[Declaration], set[str]]:
    """All of them, and what modules use when they are imported."""
    found: list[Declaration] = []
    at_import: set[str] = set()

    def visit(module: str, body: list[ast.stmt], owner: str, is_for_library: bool = False) -> None:
        for node in body:
            place = f"{module}.{owner}." if owner else f"{module}."
            match node:
                case ast.FunctionDef(name) | ast.AsyncFunctionDef(name):
                    found.append(Declaration(place + name, name, frozenset(names_in(node)), owner, is_for_library))
                case ast.ClassDef(name):
                    head = {used for part in [*node.bases, *node.keywords, *node.decorator_list] for used in names_in(part)}
                    found.append(Declaration(place + name, name, frozenset(head), owner))
                    visit(module, node.body, f"{owner}.{name}" if owner else name, has_library_base(module, node))
                case ast.AnnAssign(ast.Name(name), annotation, value):
                    uses = names_in(annotation) | (names_in(value) if value else set())
                    found.append(Declaration(place + name, name, frozenset(uses), owner))
                case ast.Assign(targets, value):
                    for target in targets:
                        for each in target.elts if isinstance(target, ast.Tuple) else [target]:
                            if isinstance(each, ast.Name):
                                found.append(Declaration(place + each.id, each.id, frozenset(names_in(value)), owner))
                            else:
                                at_import.update(names_in(value))
                case ast.If(body=inner, orelse=rest) if not owner:
                    at_import.update(names_in(node.test))
                    visit(module, inner, owner)
                    visit(module, rest, owner)
                case ast.Import() | ast.ImportFrom():
                    pass
                case _:
                    at_import.update(names_in(node))

    for module, path in MODULES.items():
        visit(module, tree_of(path).body, "")
    return found, at_import


def has_library_base(module: str, node: ast.ClassDef) -> bool:
    roots = {ast.unparse(base).partition("[")[0].partition(".")[0] for base in node.bases}
    for part in ast.walk(tree_of(MODULES[module])):
        if isinstance(part, ast.Import):
            origins = {alias.asname or alias.name.partition(".")[0]: alias.name for alias in part.names}
        elif isinstance(part, ast.ImportFrom):
            origins = {alias.asname or alias.name: str(part.module) for alias in part.names}
        else:
            continue
        for root in roots & origins.keys():
            if origins[root].partition(".")[0] not in {*OWN_BASES, *PACKAGES}:
                return True
    return False


def unreached(roots: Collection[str] = ()) -> Iterator[str]:
    """roots: places that count as reached."""
    found, reached = declarations()
    reached |= {used for each in found if each.place in roots for used in (each.name, *each.uses)}
    by_name = defaultdict[str, list[Declaration]](list)
    for each in found:
        by_name[each.name].append(each)
    reached |= {"main"}
    waiting = list(reached)
    done: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in done:
            continue
        done.add(name)
        for each in by_name[name]:
            waiting += each.uses - done
            own = f"{each.owner}.{name}" if each.owner else name
            waiting += [  # of a class that is reached: what Python or a library calls
                inner.name
                for inner in found
                if inner.owner == own and (is_special(inner.name) or inner.is_for_library) and inner.name not in done
            ]
    for each in found:
        if each.name not in done and not is_special(each.name):
            yield each.place


def is_special(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


def test_nothing_stands_in_the_product_that_only_tests_reach() -> None:
    assert sorted(unreached(EXCEPTIONS)) == []


def test_what_has_a_reason_is_not_reached_without_it() -> None:
    assert EXCEPTIONS.keys() - set(unreached()) == set()
