"""Word pools of the personal-data set. Every pool is cut into four interleaved quarters (see make_pii.share)."""

FIRST = """Anna Lukas Priya Mateo Ingrid Tomasz Aisha Henrik Yuki Carlos Fatima Oliver Chiara Nikolai Grace Pierre Leila
Johan Mei Diego Hannah Marek Zainab Erik Sakura Pablo Amira Stefan Giulia Dmitri Chloe Hugo Nadia Anders Lin
Javier Emma Piotr Samira Lars Haruto Lucia Omar Katrin Marco Irina Megan Antoine Yasmin Bjorn Wei Rosa Leon Ewa
Khadija Nils Aiko Miguel Noor Felix Paola Sergei Daisy Camille Tariq Astrid Hiro Elena Jonas Agnieszka Malik
Freya Kenji Ines Hassan Greta Luca Olga Thomas Margot Rania Sven Naomi Andres Layla Moritz Bianca Ivan Alice
Julien Salma Mikkel Ren Sofia Karim Heidi Davide Tatiana Simon Elise Idris Maja Takumi Clara Yusuf Lena Matteo
Vera Peter Manon Farah Oskar Jun Raquel Bilal Ursula Zoë José Łukasz Renée André Søren Jürgen Beatriz Kwame
Ngozi Chidi Thandiwe Amara Tunde Linh Minh Arjun Deepa Ravi Anjali Siobhan Declan Aoife Rhys Gareth Eleni Nikos
Zsofia Bence Milan Jana Petra Vaclav Aylin Emre""".split()

LAST = """Novak Tanaka Garcia Okafor Lindqvist Kowalski Rossi Petrov Nguyen Haddad Schneider Dubois Fernandez Iyer Murphy
Yamamoto Jansen Silva Adeyemi Hansen Wisniewski Ricci Volkov Tran Khoury Hoffmann Lefevre Moreno Sharma
Gallagher Sato Visser Costa Balogun Nilsen Zielinski Greco Sokolov Pham Mansour Becker Moreau Vargas Reddy
Kavanagh Ito Bakker Pereira Eze Bergstrom Nowicki Marino Orlov Hoang Saleh Vogel Girard Castillo Menon Doyle
Kimura Mulder Almeida Mensah Dahl Wrobel Conti Morozov Vo Rahimi Brandt Fontaine Herrera Patel Brennan Mori Smit
Carvalho Asante Holm Lewandowski Ferrara Lebedev Dang Aziz Krause Perrin Navarro Desai Whelan Hayashi Dekker
Ribeiro Boateng Strand Sikora Gallo Kozlov Bui Farouk Winkler Rousseau Ortega Chopra Hughes Ogawa Postma
Teixeira Diallo Lund Malik Papadakis Horvath Dvorak Yilmaz Demir Szabo Kovacs Müller Muñoz Sørensen Çelik
Gonçalves Björk Léger Grünwald Ståhl Öztürk Fletcher Hargreaves Whitlock Pemberton Ashworth Caldwell Thornbury
Redfern Lockhart Bramley Osborne Harding""".split()

CITY_GB = ["Leeds", "Bristol", "Norwich", "Exeter", "Derby", "York", "Cardiff", "Oxford"]
CITY_US = ["Dayton", "Tucson", "Denver", "Boise", "Omaha", "Fresno", "Tampa", "Boston"]
CITY_DE = ["Köln", "Bremen", "Leipzig", "Dresden", "Hannover", "Kassel", "Mainz", "Bonn"]
CITY_FR = ["Lyon", "Nantes", "Lille", "Rennes", "Dijon", "Angers", "Brest", "Nice"]
CITY_ES = ["Madrid", "Sevilla", "Valencia", "Bilbao", "Zaragoza", "Murcia", "Granada", "Oviedo"]
CITY_NL = ["Utrecht", "Haarlem", "Eindhoven", "Breda", "Arnhem", "Leiden", "Delft", "Zwolle"]
CITY_IT = ["Bologna", "Torino", "Verona", "Padova", "Parma", "Modena", "Genova", "Trieste"]
CITY_SE = ["Göteborg", "Malmö", "Uppsala", "Lund", "Örebro", "Umeå", "Gävle", "Kalmar"]
CITY = [
    *CITY_GB, *CITY_US, *CITY_DE, *CITY_FR, *CITY_ES, *CITY_NL, *CITY_IT, *CITY_SE, "Aarhus", "Bergen", "Turku", "Porto",
    "Vienna", "Prague", "Zürich", "Lisbon", "Kraków", "Dublin", "Nairobi", "Osaka", "Lagos", "Cairo", "Toronto", "Mumbai",
]

COMPANY = """Norwind Halberg Tessaro Quillmark Bluefern Ostrava Kestrelby Lumora Vantrix Pinegate Arcolux Redmoor Sylvanta
Corvane Brightholm Delmara Fenwick Grovetec Harbourne Inverlux Jorvik Kallisto Larkfield Mirador Nebulon
Oakhaven Pellucid Quorra Ridgeway Stellmark Tarrow Umbrix Velmont Westerby Xandria Yarrow Zephyrion Altamere
Bexcom Cindral Dovetail Elmstead Farrowtech Glasswing Hollins Ironleaf Jadefield Kernwell Lowmoor Marlight""".split()
COMPANY_END = ["Ltd", "GmbH", "Inc", "SA", "AB", "BV"]

PRODUCT = """kettle printer bicycle router headset camera blender lamp keyboard heater monitor drill scanner tablet speaker
charger mixer radiator projector vacuum toaster sofa mattress fridge tent backpack microscope piano freezer
telescope""".split()

STREET_GB = [
    "Larch", "Mill", "Orchard", "Station", "Heron", "Quarry", "Chapel", "Meadow", "Willow", "Castle", "Harbour",
    "Priory",
]
STREET_GB_END = ["Road", "Lane", "Street", "Close", "Avenue", "Terrace", "Drive", "Court"]
STREET_DE = [
    "Linden", "Garten", "Berg", "Ahorn", "Kirchen", "Mühlen", "Wiesen", "Schul", "Birken", "Eichen", "Rosen",
    "Hafen",
]
STREET_DE_END = ["weg", "straße", "allee", "gasse", "platz"]
STREET_FR = [
    "des Tilleuls", "du Moulin", "de la Gare", "des Lilas", "du Lavoir", "de l'Église", "des Érables", "du Verger",
]
STREET_FR_END = ["rue", "avenue", "place", "impasse"]
STREET_ES = ["del Olmo", "Mayor", "de la Luna", "del Río", "de las Flores", "del Prado", "Nueva", "del Sol"]
STREET_NL = ["Kastanje", "Molen", "Beuken", "Kerk", "Tulpen", "Dijk", "Haven", "Berken"]
STREET_NL_END = ["laan", "straat", "weg", "gracht"]
