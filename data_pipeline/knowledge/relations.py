"""ConceptNet's relations as KagNet merges them (its merge_relation.txt): 42 become 17."""

# A name with * is turned around: X MotivatedByGoal Y is Y causes X. The order is that of KagNet's
# numbers (embeddings/relation.txt).
MERGED: dict[str, tuple[str, ...]] = {
    "antonym": ("distinctfrom",),
    "atlocation": ("locatednear",),
    "capableof": (),
    "causes": ("causesdesire", "*motivatedbygoal"),
    "createdby": (),
    "isa": ("instanceof", "definedas"),
    "desires": (),
    "hassubevent": (
        *("hasfirstsubevent", "haslastsubevent", "hasprerequisite", "entails", "mannerof"),
    ),
    "partof": ("*hasa",),
    "hascontext": (),
    "hasproperty": (),
    "madeof": (),
    "notcapableof": (),
    "notdesires": (),
    "receivesaction": (),
    "relatedto": ("similarto", "synonym"),
    "usedfor": (),
}
SYMMETRIC = ("antonym", "relatedto")

_MERGED_NAME = {name: name for name in MERGED} | {
    other: name for name, others in MERGED.items() for other in others
}


def merge(head: str, relation: str, tail: str) -> tuple[str, str, str] | None:
    """Returns the triple with its merged relation, or None: KagNet has no place for it."""
    name = relation.lower()
    if name in _MERGED_NAME:
        return head, _MERGED_NAME[name], tail
    if f"*{name}" in _MERGED_NAME:
        return tail, _MERGED_NAME[f"*{name}"], head
    return None
