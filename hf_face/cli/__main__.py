"""Entry point of `accelerate launch -m hf_face.cli SUBCOMMAND` on every rank."""

from hf_face import cli

if __name__ == "__main__":
    cli.main()
