-- Moves the audit's position. Returns whether it did.
-- KEYS: sweep. ARGV: the position that must be stored ('' for none), the new one.
local stored = redis.call('HGET', KEYS[1], 'audited_until') or ''
if stored ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'audited_until', ARGV[2])
return 1
