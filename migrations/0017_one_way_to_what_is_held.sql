-- An index of which the last ANALYZE found nothing, since nothing ran at that moment, costs the planner the same whether it is searched or walked
-- through. With two of them for what is held, by node and by task, it took the wrong one: a look at 125 nodes walked 125 times over all that was
-- held (229,000 buffers for 375), until the next ANALYZE. Now the one by task is for whoever says a condition that is always true, and no other.
DROP INDEX attempts_holding_task;
CREATE INDEX attempts_holding_task ON attempts (task_id) WHERE reserved AND number > 0;
