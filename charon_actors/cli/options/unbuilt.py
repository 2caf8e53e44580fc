"""Flags of Charon's `run` that this version doesn't have yet, and for each what ignoring it means.

    refused   what decides which chain is served, or who signs: a node that started without it would be idle, or busy with real money,
              while its operator believes in a rehearsal
    noticed   everything else: fees, builders and features are the cluster's to notice, nothing slashable depends on them; where
              logs and traces go, and what is measured, changes no duty

Each has its kind and its default, so a malformed value is an error, and a value that means "as always" is no word worth. Who builds one
of them moves its row to run.py and writes its help. Source: specification 09-cli-and-config, section 3.2.
"""

from typing import Final

from charon_actors.cli.options import flags
from charon_actors.cli.options.flag import Flag, Unbuilt
from charon_actors.cli.options.values import Blank, Kind

LEFT_OUT_SIMNET: Final = "leave it out, or try `charon simnet`"
OVERRIDES_FILE: Final = ".charon/builder_registrations_overrides.json"
OVERRIDES: Final = Unbuilt("fee recipients are those of the lock")
NO_TRACES: Final = Unbuilt("no traces are sent")
NO_LOKI: Final = Unbuilt("log lines go to standard error and to --log-output-path")
NO_FEATURES: Final = Unbuilt("features are as this version has them")
NO_UPDATES: Final = Unbuilt("changes of fee recipients are not fetched")
NO_MOCKS: Final = Unbuilt("it matters for mocks only")

UNBUILT: Final = (
    Flag("builder-api", Kind.SWITCH, False, "", unbuilt=Unbuilt("blocks are asked for as the beacon nodes make them")),
    Flag("debug-address", Kind.TEXT, "", "", unbuilt=Unbuilt("nothing listens there")),
    Flag(
        "feature-set",
        Kind.TEXT,
        "stable",
        "",
        unbuilt=NO_FEATURES,
        words=flags.words("alpha", "beta", "stable"),
    ),
    Flag("feature-set-disable", Kind.TEXTS, (), "", unbuilt=NO_FEATURES, blank=Blank.DROPPED),
    Flag("feature-set-enable", Kind.TEXTS, (), "", unbuilt=NO_FEATURES, blank=Blank.DROPPED),
    Flag("fetch-feerecipient-updates", Kind.SWITCH, False, "", unbuilt=OVERRIDES),
    Flag("overrides-file", Kind.TEXT, OVERRIDES_FILE, "", unbuilt=OVERRIDES),
    Flag("publish-address", Kind.TEXT, "https://api.obol.tech/v1", "", unbuilt=NO_UPDATES),
    Flag("publish-timeout", Kind.DURATION, 300.0, "", unbuilt=NO_UPDATES),
    Flag("loki-addresses", Kind.TEXTS, (), "", unbuilt=NO_LOKI, blank=Blank.DROPPED),
    Flag("loki-service", Kind.TEXT, "charon", "", unbuilt=NO_LOKI),
    Flag("otlp-address", Kind.TEXT, "", "", unbuilt=NO_TRACES),
    Flag("otlp-headers", Kind.TEXTS, (), "", unbuilt=NO_TRACES, secret=True, blank=Blank.DROPPED),
    Flag("otlp-insecure", Kind.SWITCH, False, "", unbuilt=NO_TRACES),
    Flag("otlp-service-name", Kind.TEXT, "charon", "", unbuilt=NO_TRACES),
    Flag("proc-directory", Kind.TEXT, "", "", unbuilt=Unbuilt("other programs of the machine are not looked at")),
    Flag(
        "synthetic-block-proposals",
        Kind.SWITCH,
        False,
        "",
        unbuilt=Unbuilt("blocks are proposed when the chain asks for them, and never for a test"),
    ),
    Flag(
        "simnet-beacon-mock",
        Kind.SWITCH,
        False,
        "",
        unbuilt=Unbuilt("without it the duties of a real chain would be performed", LEFT_OUT_SIMNET),
    ),
    Flag(
        "simnet-beacon-mock-fuzz",
        Kind.SWITCH,
        False,
        "",
        unbuilt=Unbuilt("without it the duties of a real chain would be performed", LEFT_OUT_SIMNET),
    ),
    Flag(
        "simnet-validator-mock",
        Kind.SWITCH,
        False,
        "",
        unbuilt=Unbuilt("without it nobody signs until a validator client is connected", LEFT_OUT_SIMNET),
    ),
    Flag("simnet-slot-duration", Kind.DURATION, 1.0, "", unbuilt=NO_MOCKS),
    Flag("simnet-validator-keys-dir", Kind.TEXT, ".charon/validator_keys", "", unbuilt=NO_MOCKS),
)
