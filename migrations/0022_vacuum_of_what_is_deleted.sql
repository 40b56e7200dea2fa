-- Of these tables rows are only added, and deleted when their task is: as many as are added, once tasks are deleted at all. Vacuum at its usual
-- pace took two and a half minutes for the largest of them, in which a busy platform deletes several times what is alive.
ALTER TABLE task_events SET (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_scale_factor = 0.1);
ALTER TABLE tasks SET (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_scale_factor = 0.1);
