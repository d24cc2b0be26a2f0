-- KEYS: sweep. ARGV: from ('' for none), to.
local stored = redis.call('HGET', KEYS[1], 'audited_until') or ''
if stored ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'audited_until', ARGV[2])
return 1
