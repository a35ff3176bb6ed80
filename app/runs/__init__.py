"""All state changes and run queries. Everybody else calls these functions; nobody else assigns `state`.

acceptance   a checked request -> a QUEUED row
claims       who works on a run now, and when it is due again
transitions  the state table, guarded in SQL, with one event for every change
listing      pages, one run
owed_cancels provider runs that are one too many
news         what a transaction did, for those who count and log
backlog      how many runs wait where, and since when
counts       how many runs there are in each state
step_tallies how many runs or tasks of a run's steps are alike
deletion     rows of ended runs

Functions take an open `Session` inside a transaction that the caller began; they never commit. They read every result
to its end: one that is left open keeps SQLite's read lock, and every writer waiting, until it is collected.
"""
