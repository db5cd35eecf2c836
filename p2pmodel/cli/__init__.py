"""The person: commands, progress, rendering. Nothing heavy is imported before it is used."""
