-- Moves the audit's position. Returns whether it did.
-- KEYS: sweep. ARGV: the position that must be stored ('' for none), the new one, and how far
-- before the position of versions before applications the audit starts if it has none of its own.
local stored = redis.call('HGET', KEYS[1], 'messages_audited_until')
if not stored then
  local older = redis.call('HGET', KEYS[1], 'audited_until')
  stored = older and string.format('%.0f', tonumber(older) - tonumber(ARGV[3])) or ''
end
if stored ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'audited_until', ARGV[2], 'messages_audited_until', ARGV[2])
return 1
