-- ARGV: prefix, now, the sweep's report, how many webhooks to forget at most. Answers how many had expired.
redis.call('HSET', p .. 'sweep', 'report', ARGV[3])
return purge(tonumber(ARGV[4]))
