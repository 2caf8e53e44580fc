"""The example below a help page: a command that can be pasted as it stands, broken before flags where it is long."""

import click

WIDTH = 78


def write_example(formatter: click.HelpFormatter, example: str) -> None:
    """Write `example`, one line in the source, below a page. It must not have ` --` inside quotes."""
    formatter.write_paragraph()
    formatter.write("Example:\n")
    first, *flags = example.split(" --")
    lines = [f"  {first}"]
    for flag in flags:
        if len(lines[-1]) + len(flag) + 3 <= WIDTH - 2:
            lines[-1] += f" --{flag}"
        else:
            lines[-1] += " \\"
            lines.append(f"    --{flag}")
    formatter.write("\n".join(lines) + "\n")
