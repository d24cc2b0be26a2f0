-- ARGV: prefix, now, from ('' for none), to.
local stored = redis.call('HGET', p .. 'sweep', 'audited_until') or ''
if stored ~= ARGV[3] then return 0 end
redis.call('HSET', p .. 'sweep', 'audited_until', ARGV[4])
return 1
