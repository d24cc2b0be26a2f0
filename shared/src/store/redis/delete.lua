-- ARGV: prefix, now, task, id, reference, revision that the stored record must have ('' for any). Whether there was one that had not expired.
local task = ARGV[3]
local kind = redis.call('TYPE', p .. 'w:' .. task).ok
if kind == 'none' then return 0 end
if kind ~= 'hash' then
  -- Somebody else wrote under this key. Nothing tells which entries its webhook had, so all that it can have had go.
  for s = 0, 4 do redis.call('ZREM', p .. 'status:' .. s, task) end
  redis.call('ZREM', p .. 'time', task)
  redis.call('ZREM', p .. 'ref:' .. ARGV[5], task)
  redis.call('ZREM', p .. 'due', ARGV[4])
  redis.call('UNLINK', p .. 'w:' .. task, p .. 'c:' .. task)
  return 1
end
local found = load(task)
if not found or found.i ~= ARGV[4] then return 0 end
if ARGV[6] ~= '' and found.v ~= ARGV[6] then return 0 end
remove(task, found)
return is_expired(found) and 0 or 1
