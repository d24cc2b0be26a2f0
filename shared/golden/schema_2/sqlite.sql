PRAGMA application_id = 1349743720;
PRAGMA user_version = 3;
CREATE TABLE applications (
    id TEXT PRIMARY KEY,
    revision INTEGER NOT NULL,
    document TEXT NOT NULL
) WITHOUT ROWID, STRICT;
CREATE TABLE circuits (
    destination TEXT PRIMARY KEY,
    revision INTEGER NOT NULL,
    opened INTEGER NOT NULL,    -- 1: open or half-open
    touched_at INTEGER NOT NULL,
    circuit TEXT NOT NULL
) WITHOUT ROWID, STRICT;
CREATE TABLE contents (
    id INTEGER PRIMARY KEY,
    url TEXT NOT NULL,
    headers TEXT,               -- JSON; NULL if there are none
    payload TEXT NOT NULL
) STRICT;
CREATE TABLE counters (
    name TEXT PRIMARY KEY,
    n INTEGER NOT NULL
) WITHOUT ROWID, STRICT;
CREATE TABLE destination_hours (
    hour INTEGER NOT NULL,
    destination TEXT NOT NULL,
    delivered INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    error_at INTEGER,
    error TEXT,
    PRIMARY KEY (hour, destination)
) WITHOUT ROWID, STRICT;
CREATE TABLE destinations (
    destination TEXT PRIMARY KEY,
    waiting INTEGER NOT NULL
) WITHOUT ROWID, STRICT;
CREATE TABLE messages (
    lane INTEGER NOT NULL,
    visible_at INTEGER NOT NULL,
    id INTEGER NOT NULL,        -- random
    held INTEGER NOT NULL,      -- 0: as sent, 1: received, 2: released with a delay
    receives INTEGER NOT NULL,
    sent_at INTEGER NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (lane, visible_at, id)
) WITHOUT ROWID, STRICT;
CREATE TABLE reservations (
    key TEXT PRIMARY KEY,
    task BLOB NOT NULL,
    fingerprint TEXT NOT NULL,
    answer TEXT,
    expires_at INTEGER NOT NULL
, settled TEXT) WITHOUT ROWID, STRICT;
CREATE TABLE retired (
    task BLOB PRIMARY KEY,
    why TEXT NOT NULL,
    expires_at INTEGER NOT NULL
) WITHOUT ROWID, STRICT;
CREATE TABLE sweep (
    name TEXT PRIMARY KEY,
    value ANY NOT NULL
) WITHOUT ROWID, STRICT;
CREATE TABLE totals (
    slot INTEGER PRIMARY KEY,
    n INTEGER NOT NULL
) STRICT;
CREATE TABLE webhooks (
    task BLOB PRIMARY KEY,      -- 16 bytes; their order is the order of creation
    revision INTEGER NOT NULL,
    status INTEGER NOT NULL,
    reference TEXT,             -- only if the caller gave it
    due_at INTEGER,
    archived_at INTEGER,        -- only of dead letters
    expires_at INTEGER,
    content INTEGER NOT NULL,   -- contents.id
    record TEXT NOT NULL
, kind INTEGER NOT NULL DEFAULT 0, application TEXT, unstarted INTEGER, hidden_at INTEGER) WITHOUT ROWID, STRICT;
CREATE INDEX circuits_by_age ON circuits (touched_at);
CREATE INDEX circuits_latest_first ON circuits (opened DESC, touched_at DESC);
CREATE INDEX dead_letters ON webhooks (archived_at) WHERE archived_at IS NOT NULL;
CREATE INDEX dead_letters_by_endpoint ON webhooks (application, substr(task, 17), archived_at)
    WHERE archived_at IS NOT NULL AND kind = 2;
CREATE INDEX dead_letters_by_reference ON webhooks (reference, archived_at)
    WHERE archived_at IS NOT NULL AND reference IS NOT NULL;
CREATE INDEX destination_hours_by_failed ON destination_hours (hour, failed);
CREATE INDEX messages_by_application ON webhooks (application) WHERE kind = 1;
CREATE INDEX reservations_expiring ON reservations (expires_at);
CREATE INDEX retired_expiring ON retired (expires_at);
CREATE INDEX webhooks_by_reference ON webhooks (reference) WHERE reference IS NOT NULL;
CREATE INDEX webhooks_by_status ON webhooks (status) WHERE status <> 3;
CREATE INDEX webhooks_due ON webhooks (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX webhooks_expiring ON webhooks (expires_at) WHERE expires_at IS NOT NULL;
INSERT INTO applications VALUES ('Customer_8', 9, '{"v":2,"r":9,"id":"Customer_8","name":"Eight é","keep_unmatched":true,"metadata":{"plan":"gold"},"created_at":4000000000000,"updated_at":4000000009007,"deleted_at":4000000009007,"tokens_not_before":4000000008007,"keys":[{"id":"key-0123456789abcdef","name":"ci","sha256":"8fa3aab2faa9b79e0a0398da5b5abd0780142442a5be80b9a64608d718cb1fcd","scopes":["publish","read"],"expires_at":4000000100007}],"endpoints":[{"id":"ep-aebagbafaydqqcib","rev":5,"created_at":4000000001007,"updated_at":4000000008007,"url":"https://example.com/hooks?a=b","event_types":["order.paid","invoice.*","*"],"headers":[{"name":"x-token","sealed":"0123abcd.c2VhbGVk"}],"secrets":[{"id":"sec-0123456789abcdef","kind":"v1","sealed":"0123abcd.c2VjcmV0","created_at":4000000001007,"expires_at":4000000200007}],"retry":{"max_attempts":5},"timeout_ms":5000,"description":"the shop","metadata":{"team":"a"},"disabled":{"at":4000000008007,"why":"customer","told":true}},{"id":"ep-aibagbafaydqqcic","rev":1,"created_at":4000000009007,"updated_at":4000000009007,"url":"https://example.com/b"}],"changes":[{"t":4000000009007,"by":"key-0123456789abcdef","what":"endpoint.created ep-aibagbafaydqqcic"}]}');
INSERT INTO applications VALUES ('cust-7', 1, '{"v":2,"r":1,"id":"cust-7","created_at":4000000000000,"updated_at":4000000000000}');
INSERT INTO contents VALUES (1, 'https://example.com/hooks/auto-A6NSlEAAcQKDBAUGBwgJAQ?a=b', NULL, '{"n": 1.0, "digits":""}');
INSERT INTO contents VALUES (2, 'https://example.com/hooks/order-2?a=b', '[["x-tenant","7"],["x-text","\"quoted\", é"]]', '{"n": 1.0, "digits":""}');
INSERT INTO contents VALUES (3, 'https://example.com/hooks/order-3?a=b', '[["x-tenant","7"],["x-text","\"quoted\", é"]]', '{"n": 1.0, "digits":""}');
INSERT INTO contents VALUES (4, 'https://example.com/hooks/order-4?a=b', '[["x-tenant","7"],["x-text","\"quoted\", é"]]', '{"n": 1.0, "digits":""}');
INSERT INTO contents VALUES (5, 'https://example.com/hooks/order-5?a=b', '[["x-tenant","7"],["x-text","\"quoted\", é"]]', '{"n": 1.0, "digits":"3967065619533384597771182597884798161994891299836593312952767101072476842018727086323991013714041416394391916455864144432885484060114521738916404362290517537931183550534993021779351186562597792226363806441153512598090156145702974165560612416496055651937391947057820250166822451468085111935448160680451635765525997606245742115119292743824825775329174619934035146269035547200321939159562383872909139508124345396440094784280579692622001611358341568430342471483102505541332577415658746187240515321167353821348565776393206566626112693791619420512308448819263369736422449897151346101253209810674909970000190427568765467070578945136915877449564332413038589460061415285045157917967248688724300359294373517911111270512565580741410083834081410320347382372686258917071108954613563394944703360654841042981296507384137241032198396965681649381980390644995329165599111206869310529031755983710088875198470815758589138320871631933248747943444729714094301477972270761550374221993271671141355315987348123539568493665135597695864815106921591621794749968091309093398059659728995234070943282794526881402577213722416846921609844637943465423218491765373167471258779355446834034704171642511663446112852808780699816865464815802213651176935313958051453479110896271102785118070394118020124040657114326075890666642428510332639126944471338231916517760134088615114354141726871669113108877286474201212174317951412494459515779411181678141200577007394139181996741813104255131048137994388753449348022270205141326174188730115180588649418510084505842491951338648326249159819391499999464746113184378824707280269131253800714611966746373211232673320926710140955227904416652707602954750693644278562162001239116696293742155183081275097526305961275012310687710903683258511491321140965173468645332413126763833631002701411212446647452212104102105026851045907412982150130918041651308413508804158985555760715925317342543133098030727547864632621041809993636024425890159363301939944133449871870609141420296829196237062212725577580402812730721113893576439341635786615176813136205748639701151460372662911444781230852585572627116962471641947611086731139826478607934139537297303560853860227785701276684713534566146324488123105612973012439304245313399719120237421480360138424068247678110258962303080115219495186764148236671655940610129801757650012914771151669216159035342137022263648754011119721041216835565925477482187103673651034866140005711422316214254725595645915368696385870246473254431634140458391144104132511144822191363518613211442103087698949691127154798467594440882210294021567352213064663286520213835661983301326312286328362123325689041366201346968316011310250510060360167173421666479510204036964761529023082827132126016459954479411502699933715330920595642916720396160815256200634704410858196388402996409955881024961110014946911411729648141493741043500776041246625578694744105274874609836157018721183542810533394616064186290379194582305133816057388113571446772256163872741314726696325661205368158138783668248125883611145128136005018227851004631"}');
INSERT INTO contents VALUES (6, '', NULL, '{"n": 1.0, "é":[]}');
INSERT INTO contents VALUES (7, '', NULL, '{"n": 1.0, "é":[]}');
INSERT INTO counters VALUES ('delivered', 5);
INSERT INTO counters VALUES ('failed', 2);
INSERT INTO destination_hours VALUES (1111111, 'https://down.example.com:443', 1, 2, 4000000030007, '{"kind":"http_status","status_code":503,"message":"the destination answered 503"}');
INSERT INTO destination_hours VALUES (1111111, 'https://example.com:443', 4, 0, NULL, NULL);
INSERT INTO destinations VALUES ('https://down.example.com:443', 3);
INSERT INTO messages VALUES (0, 4000000000000, 1, 0, 0, 4000000000000, '{"v":1,"webhook_id":"order-2_03a35294-4000-7202-8304-050607080902","seen":{"v":1,"r":2,"id":"order-2_03a35294-4000-7202-8304-050607080902","ref":true,"cor":"cor-2","ev":"order.paid","tr":{"i":"0af7651916cd43dd8448eb211c80319c","s":true,"v":"vendor=1"},"dst":"https://example.com:443","s":"in_progress","c":4000000000000,"u":4000000001007,"at":4000000001007,"due":4000000046007,"cl":{"i":18446744073709551615,"t":4000000001007,"l":4000000046007},"n":1,"ro":{"max_attempts":5,"base_delay_ms":1000,"factor":1.5,"max_delay_ms":60000,"jitter":0.25,"schedule_ms":[5000,300000]},"h":[{"t":4000000000007,"f":"a","k":"new","s":"pending"}]}}');
INSERT INTO messages VALUES (0, 4000000000000, 2, 0, 0, 4000000000000, '{"v":1,"webhook_id":"order-2_03a35294-4000-7202-8304-050607080902"}');
INSERT INTO messages VALUES (1, 4000000000000, 3, 0, 0, 4000000000000, '{"v":1,"webhook_id":"order-2_03a35294-4000-7202-8304-050607080902","archive":true}');
INSERT INTO reservations VALUES ('reservation_answered.json', X'03A35294400076028304050607080906', '3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a', '{"webhook_id":"é"}', 4000086400007, '[null,"03a35294-4000-7702-8304-050607080907"]');
INSERT INTO reservations VALUES ('reservation_fresh.json', X'03A35294400076028304050607080906', '3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a', NULL, 4000086400007, NULL);
INSERT INTO retired VALUES (X'03A35294400078028304050607080908', 'deleted', 4000090000000);
INSERT INTO retired VALUES (X'03A35294400079028304050607080909', 'barred', 4000090000000);
INSERT INTO sweep VALUES ('audited_until', 4000000000000);
INSERT INTO sweep VALUES ('messages_audited_until', 4000000000000);
INSERT INTO sweep VALUES ('report', '{"ran_at":4000000000000,"lag_ms":5,"counts":[1,2,3,4,5],"unreadable":6,"unreadable_may_be_more":true,"resume":["s",{"a":{"d":4000000046007,"n":"order-2"}},"e"],"began_at":4000000001007,"clock_fault":{"found_at":4000000002007,"ahead_ms":3600000,"left":[{"a":{"d":4000000003007,"n":""}},{"a":{"d":4000000003007,"n":""}},{"a":{"d":4000000003007,"n":""}},{"a":{"d":4000000003007,"n":""}},{"a":{"d":4000000003007,"n":""}},{"a":{"d":4000000003007,"n":""}},{"a":{"d":4000000003007,"n":""}},{"a":{"d":4000000003007,"n":""}},{"a":{"d":4000000003007,"n":""}},{"a":{"d":4000000003007,"n":""}},{"a":{"d":4000000003007,"n":""}},{"a":{"d":4000000003007,"n":""}},{"a":{"d":4000000003007,"n":""}},{"a":{"d":4000000003007,"n":""}},{"a":{"d":4000000003007,"n":""}},{"a":{"d":4000000003007,"n":""}}]}}');
INSERT INTO totals VALUES (0, 1);
INSERT INTO totals VALUES (1, 1);
INSERT INTO totals VALUES (2, 2);
INSERT INTO totals VALUES (3, 1);
INSERT INTO totals VALUES (4, 1);
INSERT INTO totals VALUES (5, 2);
INSERT INTO totals VALUES (6, 1);
INSERT INTO webhooks VALUES (X'03A35294400071028304050607080901', 1, 0, NULL, NULL, NULL, NULL, 1, '{"v":1,"r":1,"id":"auto-A6NSlEAAcQKDBAUGBwgJAQ_03a35294-4000-7102-8304-050607080901","cor":"cor-1","dst":"https://example.com:443","s":"pending","c":4000000000000,"u":4000000000000,"at":4000000000000,"h":[{"t":4000000000007,"f":"a","k":"new","s":"pending"}]}', 0, NULL, NULL, NULL);
INSERT INTO webhooks VALUES (X'03A35294400072028304050607080902', 2, 1, 'order-2', 4000000046007, NULL, NULL, 2, '{"v":1,"r":2,"id":"order-2_03a35294-4000-7202-8304-050607080902","ref":true,"cor":"cor-2","ev":"order.paid","tr":{"i":"0af7651916cd43dd8448eb211c80319c","s":true,"v":"vendor=1"},"dst":"https://example.com:443","s":"in_progress","c":4000000000000,"u":4000000001007,"at":4000000001007,"due":4000000046007,"cl":{"i":18446744073709551615,"t":4000000001007,"l":4000000046007},"n":1,"ro":{"max_attempts":5,"base_delay_ms":1000,"factor":1.5,"max_delay_ms":60000,"jitter":0.25,"schedule_ms":[5000,300000]},"h":[{"t":4000000000007,"f":"a","k":"new","s":"pending"}]}', 0, NULL, NULL, NULL);
INSERT INTO webhooks VALUES (X'03A35294400073028304050607080903', 40, 2, 'order-3', 4000000960007, NULL, NULL, 3, '{"v":1,"r":40,"id":"order-3_03a35294-4000-7302-8304-050607080903","ref":true,"cor":"cor-3","dst":"https://example.com:443","s":"retrying","c":4000000000000,"u":4000000020007,"at":4000000060007,"due":4000000960007,"n":8,"b":{"a":1,"i":2,"q":3,"s":4,"r":5,"d":6,"dm":7,"hm":8,"rr":9,"ur":10},"err":{"kind":"http_status","status_code":503,"message":"the destination answered 503"},"as":[{"n":1,"t":4000000001007,"ms":12,"e":"http_status","sc":503,"m":"the destination answered 503","x":"try \"later\" – é"},{"n":2,"t":4000000002007,"ms":12,"e":"network","m":"the destination answered 503","x":"try \"later\" – é"},{"n":3,"t":4000000003007,"ms":12,"e":"timeout","m":"the destination answered 503","x":"try \"later\" – é"},{"n":4,"t":4000000004007,"ms":12,"e":"tls","m":"the destination answered 503","x":"try \"later\" – é"},{"n":5,"t":4000000005007,"ms":12,"e":"refused_address","m":"the destination answered 503","x":"try \"later\" – é"},{"n":6,"t":4000000006007,"ms":12,"e":"interrupted","m":"the destination answered 503","x":"try \"later\" – é"},{"n":7,"t":4000000007007,"ms":12,"e":"circuit_open","m":"the destination answered 503","x":"try \"later\" – é"},{"n":8,"t":4000000008007,"ms":12,"e":"undeliverable","m":"the destination answered 503","x":"try \"later\" – é"}],"h":[{"t":4000000001007,"f":"a","k":"new","s":"retrying","n":1,"w":4000000060007},{"t":4000000002007,"f":"d","k":"clm","s":"retrying","n":2,"w":4000000060007,"y":"lease_over"},{"t":4000000003007,"f":"d","k":"rty","s":"retrying","n":3,"w":4000000060007,"y":"retry_after"},{"t":4000000004007,"f":"d","k":"dfr","s":"retrying","n":4,"w":4000000060007,"y":"rate_limit"},{"t":4000000005007,"f":"d","k":"dfr","s":"retrying","n":5,"w":4000000060007,"y":"circuit_open"},{"t":4000000006007,"f":"s","k":"rq","s":"retrying","n":6,"w":4000000060007,"y":"scheduled"},{"t":4000000007007,"f":"s","k":"ad","s":"retrying","n":7,"w":4000000060007,"y":"audit"},{"t":4000000008007,"f":"q","k":"ad","s":"retrying","n":8,"w":4000000060007,"y":"rescue"},{"t":4000000009007,"f":"a","k":"ad","s":"retrying","n":9,"w":4000000060007,"y":"unsent"},{"t":4000000010007,"f":"d","k":"ok","s":"retrying","n":10,"w":4000000060007},{"t":4000000011007,"f":"d","k":"fail","s":"retrying","n":11,"w":4000000060007,"y":"http_status"},{"t":4000000012007,"f":"q","k":"ar","s":"retrying","n":12,"w":4000000060007},{"t":4000000013007,"f":"a","k":"rs","s":"retrying","n":13,"w":4000000060007},{"t":4000000014007,"f":"a","k":"rd","s":"retrying","n":14,"w":4000000060007}]}', 0, NULL, NULL, NULL);
INSERT INTO webhooks VALUES (X'03A35294400074028304050607080904', 3, 3, 'order-4', NULL, NULL, 4002592000007, 4, '{"v":1,"r":3,"id":"order-4_03a35294-4000-7402-8304-050607080904","ref":true,"cor":"cor-4","dst":"https://example.com:443","s":"delivered","c":4000000000000,"u":4000000002007,"n":1,"b":{"a":1},"as":[{"n":1,"t":4000000001007,"ms":12}],"h":[{"t":4000000000007,"f":"a","k":"new","s":"pending"}],"da":4000000002007,"x":4002592000007}', 0, NULL, NULL, NULL);
INSERT INTO webhooks VALUES (X'03A35294400074028304050607080914', 1, 0, NULL, NULL, NULL, 4003888000000, 6, '{"v":2,"k":"m","r":1,"id":"auto-A6NSlEAAdAKDBAUGBwgJFA_03a35294-4000-7402-8304-050607080914","app":"cust-7","cor":"cor-20","ev":"order.paid","c":4000000000000,"u":4000000000000,"at":4000000000000,"plan":[{"e":"ep-aebagbafaydqqcib"}],"x":4003888000000}', 1, 'cust-7', 1, 4003888000000);
INSERT INTO webhooks VALUES (X'03A35294400075028304050607080905', 5, 4, 'order-5', NULL, 4000000004007, 4002592000007, 5, '{"v":1,"r":5,"id":"order-5_03a35294-4000-7502-8304-050607080905","ref":true,"cor":"cor-5","dst":"https://example.com:443","s":"failed","c":4000000000000,"u":4000000004007,"n":1,"err":{"kind":"timeout","message":"no answer within 30 s"},"h":[{"t":4000000000007,"f":"a","k":"new","s":"pending"}],"fa":4000000003007,"aa":4000000004007,"x":4002592000007}', 0, NULL, NULL, NULL);
INSERT INTO webhooks VALUES (X'03A35294400075028304050607080915', 4, 0, 'cust-7/order-21', 4000004500007, NULL, NULL, 7, '{"v":2,"k":"m","r":4,"id":"order-21_03a35294-4000-7502-8304-050607080915","app":"cust-7","ref":true,"cor":"cor-20","ev":"order.paid","tr":{"i":"0af7651916cd43dd8448eb211c80319c","s":true,"v":"vendor=1"},"c":4000000000000,"u":4000004000007,"at":4000003600007,"due":4000004500007,"requeues":2,"settled":1,"deleting":true,"plan":[{"e":"ep-aebagbafaydqqcib"},{"e":"ep-aibagbafaydqqcic"},{"e":"ep-ambagbafaydqqcid","t":4000004000007}],"off":["ep-aqbagbafaydqqcie"]}', 1, 'cust-7', 1, NULL);
INSERT INTO webhooks VALUES (X'03A3529440007502830405060708091565702D61696261676261666179647171636963', 2, 2, NULL, 4000004506007, NULL, NULL, 7, '{"v":2,"r":2,"id":"order-21_03a35294-4000-7502-8304-050607080915.ep-aibagbafaydqqcic","app":"cust-7","cor":"cor-20","ev":"order.paid","tr":{"i":"0af7651916cd43dd8448eb211c80319c","s":true,"v":"vendor=1"},"dst":"cust-7/ep-aibagbafaydqqcic","s":"retrying","c":4000000000000,"u":4000003601007,"at":4000003606007,"due":4000004506007,"n":1,"b":{"a":1,"q":1},"err":{"kind":"http_status","status_code":503,"message":"the destination answered 503"},"as":[{"n":1,"t":4000003600007,"ms":12,"e":"http_status","sc":503,"er":3,"m":"the destination answered 503"}],"h":[{"t":4000000000000,"f":"a","k":"new","s":"pending","w":4000003600007,"y":"scheduled"},{"t":4000003600007,"f":"d","k":"clm","s":"in_progress","n":1},{"t":4000003601007,"f":"d","k":"rty","s":"retrying","n":1,"w":4000003606007,"y":"http_status"}]}', 2, 'cust-7', NULL, NULL);
INSERT INTO webhooks VALUES (X'03A3529440007502830405060708091565702D616D6261676261666179647171636964', 0, 3, NULL, NULL, NULL, 4001728000007, 0, '', 3, NULL, NULL, NULL);
