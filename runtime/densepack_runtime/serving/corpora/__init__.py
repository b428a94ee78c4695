"""Answers to whole corpora: files of rows in, parts of rows with their answers out, resumed where a run was stopped."""
