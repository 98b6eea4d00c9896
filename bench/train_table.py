"""What `train_gpu.py` prints at its end."""

from __future__ import annotations

from polythink.run.table import markdown_table


def report(run, machine: dict) -> str:
    """Markdown of a `Run`: the table, the agreement, the profile, and what failed."""
    parts = [f"{machine['date']}, {machine['device']}, torch {machine['torch']}\n"]
    head = ["part", "variant", "tokens", "seen", "first s", "ms", "lowest", "highest", "tokens/s", "peak GB"]
    rows = [
        [r["part"], r["variant"], r["tokens"], f"{r['seen']:.0%}", f"{r['first_s']:.1f}",
         *(f"{r[k] * 1e3:.1f}" for k in ("s", "low_s", "high_s")), f"{r['tokens_per_s']:,.0f}",
         "" if r["peak_gb"] is None else f"{r['peak_gb']:.1f}"]
        for r in run.rows
    ]  # fmt: skip
    parts.append(markdown_table(head, rows))
    if agree := run.found.get("agree"):
        head = ["dtype", "variant", "loss", "gradient norm", "loss apart", "norm apart", "gradient apart"]
        names = ("loss_apart", "norm_apart", "gradient_apart")
        rows = [
            [r["dtype"], r["variant"], f"{r['loss']:.6f}", f"{r['grad_norm']:.6g}", *(f"{r[n]:.1e}" for n in names)]
            for r in agree
        ]
        parts.append("Against the dense mask, relative:\n\n" + markdown_table(head, rows))
    if found := run.found.get("profile"):
        head, rows = ["kernel", "ms", "calls"], [[k["kernel"], f"{k['ms']:.2f}", k["calls"]] for k in found["top"]]
        parts.append(
            f"{found['variant']}: a step {found['step_ms']:.1f} ms, {found['kernels']} kernels of together "
            f"{found['kernels_ms']:.1f} ms, busy {found['busy']:.0%}\n\n" + markdown_table(head, rows)
        )
    parts += ["Failed:\n" + "\n".join(f"* {what}: {why}" for what, why in run.failed.items())] if run.failed else []
    return "\n".join(parts)
